"""Runs on several ranks through the real command line: the same results as one process, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from omni_rl import train
from omni_rl.errors import UserError

pytestmark = pytest.mark.ci

LORA = {"path": "", "lora": {"rank": 2, "alpha": 4}}
GROUP_REWARD = '''
import torch


class Spread:
    """Compares the pictures of a group: the brightest gets 1, and all must be there."""

    scope = "group"

    def score(self, batch):
        uids = list(batch.uids)
        assert all(uids.count(uid) == 4 for uid in uids), uids
        level = [float(media["image"].data.mean()) for media in batch.media]
        return [float(v == max(w for w, u in zip(level, uids) if u == uid)) for v, uid in zip(level, uids)]


OMNI_RL = {"rewards": {"spread": Spread}}
'''
MOODY_REWARD = '''
import random


class Moody:
    """A judge that never says the same twice."""

    scope = "sample"

    def score(self, batch):
        return [float(random.SystemRandom().random() > 0.8) for _ in batch.uids]


OMNI_RL = {"rewards": {"moody": Moody}}
'''


def ranks(number: int) -> dict[str, Any]:
    return {"name": "torchrun", "processes": number}


@pytest.fixture
def trained(config_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """``trained(name, processes, **changes)``: the folder of a finished run."""

    def run(name: str, processes: int, **changes: Any) -> Path:
        launcher = ranks(processes) if processes > 1 else {"name": "local"}
        train(config_file(launcher=launcher, **changes), run_dir=tmp_path / name)
        return tmp_path / name

    return run


@pytest.fixture
def alike(figures: Callable[..., Any], weights: Callable[..., Any]) -> Callable[[Path, Path], None]:
    """Two runs have the same metrics and weights but for the order of sums in fp32."""

    def compare(one: Path, other: Path) -> None:
        for row, same in zip(figures(one), figures(other), strict=True):
            assert row == pytest.approx(same, rel=1e-3, abs=3e-5)
        mine, theirs = weights(one), weights(other)
        assert mine.keys() == theirs.keys()
        moved = max(float(value.abs().max()) for name, value in mine.items() if name.endswith("exp_avg"))
        assert moved > 0
        for name, value in mine.items():
            if name.startswith("policy/"):
                # Adam divides by the gradient's own size: where this is rounding, a weight moves by up to lr
                assert torch.quantile((value - theirs[name]).abs().flatten().double(), 0.9) < 1e-4, name

    return compare


@pytest.mark.parametrize("sharding", ["replicated", pytest.param("sharded", marks=pytest.mark.full)])
@pytest.mark.parametrize("lora", [True, pytest.param(False, marks=pytest.mark.full)], ids=["lora", "full"])
def test_two_ranks_train_as_one_process(
    sharding: str, lora: bool, recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    changes = {"train": {"sharding": sharding}, "model": {**LORA, "path": recipe["model"]["path"]} if lora else {}}
    alike(trained("one", 1, **changes), trained("two", 2, **changes))


def test_stored_pairs_train_as_in_one_process(
    alike: Callable[..., None], tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cache, each of two ranks encodes its share of the images and finds the others'.

    The universal adapter runs the denoiser to find out about it, which ranks with sharded weights can only do together.
    """
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"a sign {n}", "chosen": f"light{n}.png", "rejected": f"dark{n}.png"} for n in range(4)]
    for number in range(4):
        for name, level in (("light", 150), ("dark", 20)):
            pixels = rng.integers(level, level + 80, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"path": str(tiny_folder("StableDiffusion3Pipeline"))},
        "algorithm": {"name": "diffusion_dpo_offline"},
        "data": {"path": str(tmp_path / "pairs.jsonl")},
        "rollout": {"steps": 4, "prompts": 4, "batch_size": 4, "call": {"height": 16, "width": 16}},
        "reward": "brightness",
        "train": {"iterations": 2, "micro_batch_size": 4, "lr": 1e-3},
        "validation": {"every": 0},
        "gate": "off",
        "device": "cpu",
    }
    for name, launcher in (("one", {"name": "local"}), ("two", ranks(2))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{name}"))
        train({**recipe, "launcher": launcher}, run_dir=tmp_path / name)
        assert len(list((tmp_path / f"cache-{name}/omni-rl/latents").iterdir())) == 8
    alike(tmp_path / "one", tmp_path / "two")


def sharing(**sizes: int) -> dict[str, Any]:
    """The section ``train`` of ranks that share each sample."""
    return {"sequence_parallel": sizes, "iterations": 2}


def test_two_ranks_that_share_each_sample_train_as_one_process(
    recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    """Also with a validation and the gate."""
    model = {**LORA, "path": recipe["model"]["path"]}
    changes = {"model": model, "gate": "on", "validation": {"every": 1, "prompts": 2}}
    alike(trained("one", 1, train={"iterations": 2}, **changes), trained("two", 2, train=sharing(ulysses=2), **changes))


@pytest.mark.full
def test_ranks_that_share_each_sample_train_with_one_answer_of_a_reward(
    trained: Callable[..., Path], alike: Callable[..., None], tmp_path: Path
) -> None:
    """The reward answers differently every time; with different advantages, the ranks would count different rows."""
    (tmp_path / "moody.py").write_text(MOODY_REWARD)
    changes = {"plugins": [str(tmp_path / "moody.py")], "reward": [{"name": "moody"}]}
    trained("moody", 2, train={**sharing(ulysses=2), "skip_flat_groups": True}, **changes)


@pytest.mark.full
@pytest.mark.parametrize("sharding", ["replicated", "sharded"])
def test_two_rows_of_two_ranks(
    sharding: str, trained: Callable[..., Path], alike: Callable[..., None], tmp_path: Path
) -> None:
    """Five samples of one group on two data ranks, compared with each other by their reward."""
    (tmp_path / "spread.py").write_text(GROUP_REWARD.replace("== 4", "== 5"))
    changes = {
        "plugins": [str(tmp_path / "spread.py")],
        "reward": [{"name": "spread"}],
        "rollout": {"prompts": 1, "group_size": 5},
    }
    train_one = {"iterations": 2, "mini_batch_prompts": None}
    one = trained("one", 1, train=train_one, **changes)
    alike(one, trained("four", 4, train={**train_one, **sharing(ulysses=2), "sharding": sharding}, **changes))


def test_ranks_that_cannot_share_are_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.sequence_parallel: 2 processes share each sample .* but the run has 1"):
        trained("alone", 1, train=sharing(ulysses=2))
    with pytest.raises(UserError, match=r"cannot share a sequence of transformer in equal parts"):
        trained("odd", 2, train=sharing(ulysses=2), rollout={"call": {"height": 40, "width": 40}})
    with pytest.raises(
        UserError, match=r"train.sequence_parallel.ring: diffusers has no attention for it on the device"
    ):
        trained("ring", 2, train=sharing(ring=2))


@pytest.mark.full
@pytest.mark.parametrize("sharding", ["replicated", "sharded"])
def test_uneven_shares(
    sharding: str, recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    """Five samples of one group on four ranks."""
    changes = {
        "train": {"sharding": sharding, "iterations": 2, "mini_batch_prompts": None},
        "rollout": {"prompts": 1, "group_size": 5},
    }
    alike(trained("one", 1, **changes), trained("four", 4, **changes))


@pytest.mark.full
def test_uneven_shares_without_a_model_plugin(
    recipe: dict[str, Any], trained: Callable[..., Path], alike: Callable[..., None]
) -> None:
    """Decoding with the universal adapter goes through the pipeline, and one rank decodes more often than the other."""
    changes = {
        "model": {"path": recipe["model"]["path"], "plugin": "universal"},
        "train": {"sharding": "sharded", "iterations": 1, "mini_batch_prompts": None},
        "rollout": {"prompts": 1, "group_size": 5, "batch_size": 1},
    }
    alike(trained("one", 1, **changes), trained("two", 2, **changes))


@pytest.mark.full
def test_an_idle_rank(trained: Callable[..., Path], alike: Callable[..., None]) -> None:
    """Two samples on three ranks, whose weights are sharded."""
    changes = {
        "train": {"sharding": "sharded", "iterations": 2, "mini_batch_prompts": None},
        "rollout": {"prompts": 1, "group_size": 2},
    }
    alike(trained("one", 1, **changes), trained("three", 3, **changes))


@pytest.mark.full
def test_a_reward_that_compares_a_group_sees_all_of_it(
    trained: Callable[..., Path], alike: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "spread.py").write_text(GROUP_REWARD)
    changes = {
        "plugins": [str(tmp_path / "spread.py")],
        "reward": [{"name": "spread"}],
        "rollout": {"prompts": 1},
        "train": {"mini_batch_prompts": None},
        "validation": {"every": 0, "samples_per_prompt": 4},
    }
    alike(trained("one", 1, **changes), trained("two", 2, **changes))


@pytest.mark.full
def test_the_gate_and_validations(config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Sharded weights: one table, one line for each iteration, and a report."""
    options = {"gate": "on", "validation": {"every": 1}, "train": {"iterations": 1, "sharding": "sharded"}}
    done = spawn("train", config_file(launcher=ranks(2), **options), "--run-dir", tmp_path / "run")
    assert done.code == 0, done.out + done.err
    assert done.out.count("replayed log-probs differ") == 1
    assert done.out.count("iter 1/1") == 1
    assert (tmp_path / "run/report.html").exists()
    rows = [json.loads(line) for line in (tmp_path / "run/validation.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1]


@pytest.mark.full
def test_a_checkpoint_continues_on_another_number_of_ranks(
    trained: Callable[..., Path], alike: Callable[..., None], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    always = {"every": 1}  # a run that ends validates once more
    one = trained("one", 1, train={"iterations": 4, "sharding": "sharded"}, validation=always)
    two = trained("two", 2, train={"iterations": 2, "sharding": "sharded"}, validation=always)
    for words in (("launcher=local", "train.iterations=3"), ("launcher={name: torchrun, processes: 4}",)):
        done = spawn("resume", two, "train.iterations=4", *words)
        assert done.code == 0, done.err
    alike(one, two)


class Going:
    """A run on two ranks that goes on until somebody ends it."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if child.environ().get("RANK") == str(number))

    def iterations(self) -> int:
        """How many are in the metrics."""
        with contextlib.suppress(FileNotFoundError):
            return len((self.folder / "metrics.jsonl").read_text().splitlines())
        return 0

    def wait_for(self, iterations: int) -> None:
        """Wait until so many iterations are complete."""
        end = time.monotonic() + 240
        while self.iterations() < iterations:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.05)

    def ended(self) -> tuple[int, str]:
        """Wait for its end: the exit code and what it printed. No process may be left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        said, _ = self.process.communicate(timeout=120)
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
        return self.process.returncode, said


@pytest.fixture
def going(config_file: Callable[..., Path], command: str, tmp_path: Path) -> Iterator[Callable[..., Going]]:
    """``going(sharding)``: such a run, which saves every iteration."""
    started: list[Going] = []

    def start(sharding: str) -> Going:
        options = {"iterations": 1000, "checkpoint_every": 1, "sharding": sharding}
        file = config_file(launcher=ranks(2), train=options)
        started.append(Going([command, "train", str(file), "--run-dir", str(tmp_path / "run")], tmp_path / "run"))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL) if os.getpgid(each.process.pid) == each.process.pid else None
            each.process.kill()
        each.process.wait()
        if each.process.stdout is not None:
            each.process.stdout.close()


@pytest.mark.full
@pytest.mark.parametrize("sharding", ["replicated", "sharded"])
def test_a_signal_to_one_rank_saves_and_ends_all(
    sharding: str, going: Callable[..., Going], spawn: Callable[..., Any]
) -> None:
    run = going(sharding)
    run.wait_for(2)
    run.rank(1).send_signal(signal.SIGTERM)
    code, said = run.ended()
    assert code == 128 + signal.SIGTERM, said
    assert f"continue with: omni-rl resume {run.folder}" in said
    done = run.iterations()
    resumed = spawn("resume", run.folder, f"train.iterations={done + 1}")
    assert resumed.code == 0, resumed.err
    assert f"continuing after iteration {done}" in resumed.out


DEADLY_REWARD = """
import os
import signal
from pathlib import Path

import torch

from omni_rl.storage import tensor_files


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    scope = "sample"

    def score(self, batch):
        if os.environ.get("RANK") == "{number}" and Path("{run}/checkpoints/iteration-000002").exists():
            if "{moment}" == "draw":
                die()
            torch.optim.AdamW.step = die if "{moment}" == "update" else torch.optim.AdamW.step
            tensor_files.save_file = die if "{moment}" == "save" else tensor_files.save_file
        return [float(media["image"].data.mean()) for media in batch.media]


OMNI_RL = {{"rewards": {{"deadly": Deadly}}}}
"""


@pytest.mark.full
@pytest.mark.parametrize(("moment", "number"), [("draw", 1), ("update", 0), ("save", 1)])
def test_a_killed_rank_ends_all_and_loses_its_iteration(
    moment: str, number: int, config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """With sharded weights, of which each rank saves a part."""
    run = tmp_path / "run"
    (tmp_path / "deadly.py").write_text(DEADLY_REWARD.format(number=number, moment=moment, run=run))
    file = config_file(
        launcher=ranks(2),
        plugins=[str(tmp_path / "deadly.py")],
        reward=[{"name": "deadly"}],
        train={"iterations": 4, "checkpoint_every": 1, "sharding": "sharded"},
    )
    killed = spawn("train", file, "--run-dir", run)
    assert killed.code == 1, killed.err
    assert f"rank {number} ended by SIGKILL" in killed.err
    resumed = spawn("resume", run, "launcher=local")
    assert resumed.code == 0, resumed.err
    assert "continuing after iteration 2" in resumed.out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.full
def test_ctrl_c_ends_all(going: Callable[..., Going]) -> None:
    run = going("replicated")
    run.wait_for(1)
    run.process.send_signal(signal.SIGINT)
    code, said = run.ended()
    assert code == 130, said
    assert "stopped after iteration" in said


@pytest.mark.full
def test_ctrl_c_while_the_run_is_built(
    config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import os\nimport signal\nimport time\n\n\nclass Slow:\n    def __init__(self):\n"
        "        if os.environ.get('RANK') == '0':\n            os.kill(os.getppid(), signal.SIGINT)\n"
        "        time.sleep(30)\n\n    def score(self, batch):\n"
        "        return [0.0] * len(batch)\n\n\nOMNI_RL = {'rewards': {'slow': Slow}}\n"
    )
    done = spawn(
        "train", config_file(launcher=ranks(2), plugins=[str(tmp_path / "slow.py")], reward=[{"name": "slow"}])
    )
    assert done.code == 130
    assert "Traceback" not in done.err


@pytest.mark.full
def test_a_killed_launcher_leaves_no_process(going: Callable[..., Going]) -> None:
    run = going("replicated")
    run.wait_for(1)
    family = psutil.Process(run.process.pid).children(recursive=True)
    run.process.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_an_error_of_one_rank_ends_all_with_its_name(
    config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(
        "import os\n\n\nclass Bad:\n    def __init__(self):\n        if os.environ.get('RANK') == '1':\n"
        "            raise ImportError('no such thing here')\n\n    def score(self, batch):\n"
        "        return [0.0] * len(batch)\n\n\nOMNI_RL = {'rewards': {'bad': Bad}}\n"
    )
    file = config_file(launcher=ranks(2), plugins=[str(tmp_path / "bad.py")], reward=[{"name": "bad"}])
    started = time.monotonic()
    done = spawn("train", file, "--run-dir", tmp_path / "run")
    assert done.code in (1, 2)
    assert "rank 1: " in done.err
    assert "no such thing here" in done.err
    assert "Traceback" not in done.err
    assert time.monotonic() - started < 120


def test_an_error_of_one_rank_before_its_first_forward(
    config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """The other rank has begun to draw, and needs this one for its forwards."""
    (tmp_path / "two.txt").write_text("a\n" + "a very long prompt about a red sign " * 500 + "\n")
    file = config_file(
        launcher={**ranks(2), "timeout_s": 60},
        data={"path": str(tmp_path / "two.txt"), "check": "off"},
        validation={"prompts": 2, "samples_per_prompt": 1},
        train={"sharding": "sharded"},
    )
    done = spawn("train", file, "--run-dir", tmp_path / "run")
    assert done.code == 2
    assert "error: rank 1: " in done.err
    assert " tokens" in done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"processes": 0}, "launcher.processes"),
        ({"processes": 2, "nodes": 2}, "launcher.address"),
        ({"processes": 2, "nodes": 2, "node": 2, "address": "a:1"}, "launcher.node"),
        ({"processes": 2, "address": "no port"}, "launcher.address"),
        ({"processes": 2, "address": "127.0.0.1:99999"}, "launcher.address"),
        ({"processes": 2, "address": "127.0.0.1:0"}, "launcher.address"),
    ],
)
def test_options_that_do_not_fit(
    options: dict[str, Any], says: str, config_file: Callable[..., Path], call: Callable[..., Any]
) -> None:
    done = call("train", config_file(launcher={"name": "torchrun", **options}))
    assert done.code == 2
    assert says in done.err


def test_machines_that_do_not_find_each_other(config_file: Callable[..., Path], spawn: Callable[..., Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    launcher = {"name": "torchrun", "processes": 1, "nodes": 2, "address": address, "timeout_s": 3}
    done = spawn("train", config_file(launcher=launcher))
    assert done.code == 1
    assert f"error: the 2 ranks of this run did not find each other at {address}" in done.err
    assert "start the same command on all machines" in done.err
    assert "Traceback" not in done.err


def test_a_rank_that_ends_while_the_run_is_built(
    config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(
        "import os\n\n\nclass Bad:\n    def __init__(self):\n        if os.environ.get('RANK') == '1':\n"
        "            os._exit(7)\n\n    def score(self, batch):\n"
        "        return [0.0] * len(batch)\n\n\nOMNI_RL = {'rewards': {'bad': Bad}}\n"
    )
    file = config_file(launcher=ranks(2), plugins=[str(tmp_path / "bad.py")], reward=[{"name": "bad"}])
    done = spawn("train", file, "--run-dir", tmp_path / "run")
    assert done.code == 1
    assert "rank 1 ended with exit code 7" in done.err
    assert "Traceback" not in done.err


def test_the_script_for_slurm_starts_a_task_on_each_machine(tmp_path: Path) -> None:
    """With stand-ins for Slurm's own commands: what each of two machines is told to run."""
    script = Path(__file__).parents[1] / "examples/slurm.sh"
    tools = {
        "scontrol": "echo first; sleep 0.2; echo second",  # a reader that leaves early would end it by SIGPIPE
        "srun": 'for number in 0 1; do SLURM_NODEID=$number "$@"; done',
        "omni-rl": 'printf "%s|" "$@"; echo',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "[first,second]", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for words, begin in (
        (["a b/run.yaml", "train.lr=1e-4"], "train|a b/run.yaml|--run-dir|runs/run-7|train.lr=1e-4|"),
        (["--resume", "runs/run-7"], "resume|runs/run-7|"),
    ):
        done = subprocess.run(
            ["bash", script, *words], env={**os.environ, **slurm, "PATH": path}, capture_output=True, text=True
        )
        common = "launcher.name=torchrun|launcher.nodes=2|launcher.address=first:20007|"
        assert done.stdout.splitlines() == [f"{begin}{common}launcher.node={number}|" for number in (0, 1)], done.stderr
