"""A backend in another process, a source that samples ahead and a launcher elsewhere, through the unchanged loop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omni_rl import train
from omni_rl.contracts import Backend, Context, Launcher
from omni_rl.errors import DataError, PluginError, RunError
from omni_rl.plugins.local import load_file
from omni_rl.run.start import check, resume
from omni_rl_testing.backend import BackendContract
from omni_rl_testing.launcher import LauncherContract
from omni_rl_testing.source import MakeSource, SourceContract

pytestmark = pytest.mark.ci
DOORS = Path(__file__).with_name("doors.py")
doors: Any = load_file(DOORS)


@pytest.mark.full  # every check crosses to another process
class TestElsewhere(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def link(cls) -> Iterator[Any]:
        """One process for all backends, because it takes seconds to start."""
        link = doors.Link()
        yield link
        link.close()

    @pytest.fixture
    def backend(self, link: Any) -> Callable[[Context], Backend]:
        return lambda context: doors.Elsewhere(context, link)


class TestAhead(SourceContract):
    @pytest.fixture
    def make_source(self) -> MakeSource:
        return lambda **given: doors.Ahead(given["sampled"])


@pytest.mark.full  # every check starts processes
class TestInAnotherProcess(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Launcher:
        return doors.in_another_process


@pytest.fixture
def docked(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe of these tests' runs, with the toy parts at hand."""
    recipe["plugins"] = [str(DOORS)]
    recipe["model"]["lora"] = {"rank": 2}
    return recipe


def test_a_backend_elsewhere_trains_as_the_one_here(
    docked: dict[str, Any], tmp_path: Path, figures: Callable[[Path], list[dict[str, float]]]
) -> None:
    """Its gate is green, each row judged or said not to apply; its figures are the local run's."""
    away = train(docked, ["train.backend=elsewhere", "gate=on"], tmp_path / "away")
    train(docked, [], tmp_path / "here")
    rows = {row.name: row for row in away.gate}
    assert {name for name, row in rows.items() if row.verdict == "fail"} == set()
    assert rows["gradient"].detail == "not applicable: the backend keeps its weights in another process"
    assert rows["weights"].verdict == rows["replay"].verdict == "ok"
    for one, other in zip(figures(tmp_path / "away"), figures(tmp_path / "here"), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_a_backend_elsewhere_resumes(docked: dict[str, Any], tmp_path: Path) -> None:
    train(docked, ["train.backend=elsewhere", "train.iterations=1"], tmp_path / "run")
    done = resume(tmp_path / "run", ["train.iterations=2"])
    assert [row["iteration"] for row in done.metrics] == [1, 2]


def test_a_source_may_be_ahead_as_far_as_it_says(docked: dict[str, Any], tmp_path: Path) -> None:
    run = train(docked, ["algorithm.name=eager", "train.iterations=3"], tmp_path / "run")
    assert [row["policy_version"] for row in run.metrics] == [1, 2, 3]
    kept = sorted((tmp_path / "run/checkpoints").glob("iteration-*/state.json"))[-1]
    assert json.loads(kept.read_text())["state"]["source"]["in_flight"] == [3]


def test_and_no_further(docked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"version 0 would train policy version 1; its source allows a difference of at most 0"
    ):
        train(docked, ["algorithm.name=understated", "train.iterations=3"], tmp_path / "run")


def test_a_launcher_runs_it_in_another_process(
    docked: dict[str, Any],
    tmp_path: Path,
    figures: Callable[[Path], list[dict[str, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It starts in another folder, so a relative path must not cross to it."""
    monkeypatch.chdir(tmp_path)
    away = train(docked, ["launcher=another_process"], "away")
    train(docked, [], tmp_path / "here")
    assert figures(tmp_path / "away") == figures(tmp_path / "here")
    assert away.state.iteration == len(away.metrics)
    assert {row.name for row in away.gate if row.verdict == "fail"} == set()
    assert {row.verdict for row in check(docked, ["launcher=another_process"])} <= {"ok", "info"}


def test_an_error_there_is_the_same_error_here(docked: dict[str, Any], tmp_path: Path) -> None:
    prompts = tmp_path / "empty.txt"
    prompts.write_text(os.linesep)
    docked["data"]["path"] = str(prompts)
    with pytest.raises(DataError, match=r"empty\.txt"):
        train(docked, ["launcher=another_process"], tmp_path / "away")


def test_what_is_built_is_closed_when_a_later_part_cannot_be_built(docked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "parts.py"
    file.write_text(PARTS_THAT_FAIL.format(log=str(tmp_path / "log")))
    docked["plugins"].append(str(file))
    with pytest.raises(RunError, match="the server did not start"):
        train(docked, ["train.backend=told", "tracker=told", "rollout.engine=broken"], tmp_path / "run")
    assert (tmp_path / "log").read_text().split() == ["backend", "tracker"]


PARTS_THAT_FAIL = """
from omni_rl.errors import RunError
from omni_rl.training.backend import TorchBackend


def note(name):
    with open({log!r}, "a") as log:
        log.write(name + " ")


class Told(TorchBackend):
    def close(self):
        note("backend")
        super().close()


class Tracker:
    def state(self):
        return {{}}

    def restore(self, state):
        pass

    def close(self, failed=False):
        note("tracker")


class Broken:
    def __init__(self, context):
        raise RunError("the server did not start")


OMNI_RL = {{"backends": {{"told": Told}}, "trackers": {{"told": Tracker}}, "engines": {{"broken": Broken}}}}
"""


def test_an_engine_of_another_contract_is_named(docked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "engine.py"
    file.write_text(
        "from omni_rl.sampling.embedded import EmbeddedEngine\n"
        "class Old(EmbeddedEngine):\n    def sync(self, policy_version): ...\n"
        'OMNI_RL = {"engines": {"old": Old}}\n'
    )
    docked["plugins"].append(str(file))
    with pytest.raises(PluginError, match=r"has no sync\(policy_version, weights\), which Engine requires"):
        train(docked, ["rollout.engine=old"], tmp_path / "run")
