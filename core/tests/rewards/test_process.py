"""Rewards in a process of their own, and pools of processes inside a reward's file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from omni_rl.contracts.schema import RewardEntry
from omni_rl.contracts.spec import Part
from omni_rl.errors import RewardError
from omni_rl.rewards.build import Builder, Recipe
from omni_rl.rewards.builtin import Brightness, PythonFunction
from omni_rl.rewards.process import OwnProcess
from omni_rl.rewards.runner import RewardSpec

pytestmark = pytest.mark.ci  # every test starts a process that imports torch


@pytest.fixture
def isolated(tmp_path: Path):
    """``isolated(source)``: the function ``score`` of a file with this text, in a process of its own."""
    made = []

    def make(source: str, **options: str) -> OwnProcess:
        file = tmp_path / "mine.py"
        file.write_text(source)
        part = Part(kind="rewards", key="python", distribution=None, options={"file": str(file), **options})
        made.append(OwnProcess(part, []))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_it_gives_the_same_scores_as_here(draw, runner_of, score_all) -> None:
    here = score_all(runner_of(RewardSpec("b", 1.0, 4, Brightness(Brightness.Config()))), draw(1))
    there = OwnProcess(Part(kind="rewards", key="brightness"), [])
    scored = score_all(runner_of(RewardSpec("b", 1.0, 4, there)), draw(1))
    assert {k: s.value for k, s in scored.items()} == {k: s.value for k, s in here.items()}


def test_whatever_it_does_only_its_own_samples_are_missing(draw, runner_of, score_all, isolated, capfd) -> None:
    source = """
import os, signal, sys, time, torch
torch.set_default_dtype(torch.float64)
def score(batch):
    what = batch.prompts[0]
    if what != "sound": print("printed by the reward")
    if what == "exit": os._exit(0)
    if what == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang": time.sleep(60)
    if what == "raise": raise ValueError("no model")
    if what == "nan": return [float("nan")] * len(batch)
    if what == "close": sys.stdout.close()
    return [m["index"] + batch.media[i]["image"].data.shape[1] for i, m in enumerate(batch.metadata)]
"""
    runner = runner_of(RewardSpec("own", 1.0, 1, isolated(source), timeout_s=8.0))
    reasons = {
        "exit": "reward 'own' failed: LostError: its process ended with exit code 0 during the call",
        "crash": "its process was ended by SIGSEGV during the call",
        "raise": "reward 'own' failed: ValueError: no model",
        "nan": "reward 'own' returned nan",
        "hang": "reward 'own' did not answer within 8 s",
    }
    for what, reason in reasons.items():
        assert [s.value for s in score_all(runner, draw(1, 1, prompt=what)).values()] == [None]
        assert reason in runner.failures[-1]
    assert [s.value for s in score_all(runner, draw(1, 1, prompt="close")).values()] == [8.0]
    assert [s.value for s in score_all(runner, draw(1, 2, prompt="sound")).values()] == [8.0, 9.0]
    assert "printed by the reward" in capfd.readouterr().err


def test_what_cannot_be_built_is_said_with_its_line(isolated) -> None:
    with pytest.raises(RewardError, match=r"mine\.py:2"):
        isolated("\nraise RuntimeError('no model')\n")
    with pytest.raises(RewardError, match="'python' ended with exit code 3 while the reward was built"):
        isolated("import os\nos._exit(3)\n")


def test_scope_comes_from_the_process_and_closing_ends_a_running_call(draw, runner_of, isolated) -> None:
    reward = isolated("import time\ndef score(batch):\n    time.sleep(60)\n", scope="group")
    assert reward.scope == "group"
    runner = runner_of(RewardSpec("slow", 1.0, 4, reward))
    runner.submit(draw(1))
    runner._flush()
    time.sleep(0.5)
    started = time.monotonic()
    runner.close()
    assert time.monotonic() - started < 6


def test_one_object_for_every_distinct_configuration(tmp_path: Path) -> None:
    made = []

    def recipe(label: str, value: int) -> Recipe:
        part = Part(kind="rewards", key="mine", options={"value": value})
        entry = RewardEntry(name="mine", label=label, weight=value)
        return Recipe(entry, part, lambda: made.append(value) or Brightness(Brightness.Config()))

    build = Builder([])
    training, validation = build.runner([recipe("a", 1), recipe("b", 2)]), build.runner([recipe("c", 2)])
    assert made == [1, 2]
    assert training.specs[1].reward is validation.specs[0].reward
    assert validation.specs[0].label == "c"
    build.close()


POOL = """
import multiprocessing

def light(image):
    return float(image.mean())

def score(batch):
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        return pool.map(light, [media["image"].data for media in batch.media])
"""


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_pool_inside_a_reward_file_finds_its_functions(draw, runner_of, score_all, tmp_path, method) -> None:
    file = tmp_path / "my pool-1.py"
    file.write_text(POOL.format(method=method))
    reward = PythonFunction(PythonFunction.Config(file=file))
    samples = draw(1)
    runner = runner_of(RewardSpec("pool", 1.0, 4, reward, timeout_s=60.0))
    scored = score_all(runner, samples)
    assert [s.value for s in scored.values()] == [
        s.sample.trajectory["media"]["image"].numpy().mean() for s in scored.values()
    ], runner.failures
