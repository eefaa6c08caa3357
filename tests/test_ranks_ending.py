"""Runs on several ranks that are stopped, killed or cannot begin, through the real command line: nothing is lost."""

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

import psutil
import pytest

pytestmark = pytest.mark.ci

TWO = {"name": "torchrun", "processes": 2}


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
        file = config_file(launcher=TWO, train=options)
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
        launcher=TWO,
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
    done = spawn("train", config_file(launcher=TWO, plugins=[str(tmp_path / "slow.py")], reward=[{"name": "slow"}]))
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


def failing_on_rank_1(folder: Path, line: str) -> dict[str, Any]:
    """The sections of a configuration whose reward does ``line`` where rank 1 builds it."""
    (folder / "bad.py").write_text(
        "import os\n\n\nclass Bad:\n    def __init__(self):\n        if os.environ.get('RANK') == '1':\n"
        f"            {line}\n\n    def score(self, batch):\n"
        "        return [0.0] * len(batch)\n\n\nOMNI_RL = {'rewards': {'bad': Bad}}\n"
    )
    return {"plugins": [str(folder / "bad.py")], "reward": [{"name": "bad"}]}


def test_an_error_of_one_rank_ends_all_with_its_name(
    config_file: Callable[..., Path], spawn: Callable[..., Any], tmp_path: Path
) -> None:
    file = config_file(launcher=TWO, **failing_on_rank_1(tmp_path, "raise ImportError('no such thing here')"))
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
        launcher={**TWO, "timeout_s": 60},
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
    file = config_file(launcher=TWO, **failing_on_rank_1(tmp_path, "os._exit(7)"))
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
