"""The backend on two ranks, in two processes: it trains as on one rank, from the same trajectories."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from safetensors.torch import load_file

from omni_rl.contracts import batches
from omni_rl_testing.parts import Parts
from omni_rl_tiny import pipelines

pytestmark = pytest.mark.ci

ARCHITECTURE = "QwenImagePipeline"
LORA = {"rank": 2, "alpha": 4.0}
UNCLIPPED = {"lr": 1e-3, "micro_batch_size": 2, "max_grad_norm": 1e9}
MODES = [(lora, sharding) for lora in (True, False) for sharding in ("replicated", "sharded")]


@dataclass
class Outcome:
    """What one rank, or the only one, has at the end of a job."""

    said: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def group(self, name: str) -> torch.Tensor:
        """(P,) float64, all tensors of a group."""
        found = [t.double().flatten() for n, t in sorted(self.tensors.items()) if n.startswith(f"{name}/")]
        return torch.cat(found)


class Jobs:
    """Jobs that two ranks do in one start of their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []
        self.done: dict[int, list[Outcome]] = {}

    def batch(self, name: str, parts: list[Any]) -> None:
        """Store a batch: the rows of each rank, or None for no rows."""
        some = batches.forms(next(part for part in parts if part is not None))[0][1]
        for rank, part in enumerate(parts):
            ranks.save(self.folder / f"{name}.{rank}.safetensors", ranks.stored(some[:0] if part is None else part))

    def add(self, **job: Any) -> int:
        """Add a job; returns its number."""
        self.jobs.append(job)
        return len(self.jobs) - 1

    def run(self) -> None:
        """Run all jobs on two ranks."""
        (self.folder / "jobs.json").write_text(json.dumps(self.jobs))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        program = [sys.executable, str(Path(ranks.__file__)), str(self.folder)]
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                program,
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            said = [process.communicate(timeout=500)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0, 0], "\n".join(said)

    def outcomes(self, number: int) -> list[Outcome]:
        """What both ranks have at the end of a job."""
        if number not in self.done:
            paths = [self.folder / f"{number}.{rank}" for rank in range(2)]
            self.done[number] = [
                Outcome(json.loads(Path(f"{p}.json").read_text()), load_file(f"{p}.safetensors")) for p in paths
            ]
        return self.done[number]

    def alone(self, number: int) -> Outcome:
        """The same job in this process with the rows of both ranks, in the order of their groups."""
        job = self.jobs[number]
        parts = [ranks.restored(load_file(self.folder / f"{job['batch']}.{rank}.safetensors")) for rank in range(2)]
        rows = sorted((row for part in parts for row in part.unbind(0)), key=lambda row: int(row["uid"]))
        done = ranks.trained(job, ranks.parts_of(job), batches.stacked(rows))
        return Outcome(done["said"], done["tensors"])


def moved(job: Mapping[str, Any], file: Path) -> Parts:
    """One-rank parts of a job whose trained weights were moved off their start; stores their state."""
    parts = ranks.parts_of(job)
    parts.nudge()
    ranks.save(file, parts.backend.state()[0])
    return parts


def assert_equal_on_ranks(jobs: Jobs, number: int) -> None:
    """Both ranks report the same figures and have the same weights and state."""
    first, second = jobs.outcomes(number)
    assert first.said["figures"] == second.said["figures"]
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())


def assert_as_alone(jobs: Jobs, number: int, tolerance: float = 1e-5) -> None:
    """Gradient and figures of the first update, and the weights at the end, are those of one rank."""
    alone, (one, _) = jobs.alone(number), jobs.outcomes(number)
    expected, found = alone.group("gradient"), one.group("gradient")
    assert expected.norm() > 0
    assert (found - expected).abs().max() <= tolerance * expected.norm()
    for here, there in zip(one.said["figures"], alone.said["figures"], strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-5)
    weights, wanted = one.group("policy"), alone.group("policy")
    assert (weights - wanted).norm() <= 1e-4 * wanted.norm()


# --------------------------------------------------------------------------------------- a transformer, all four modes


@pytest.fixture(scope="module")
def transformer(tiny_folder, tmp_path_factory) -> Jobs:
    """Jobs on the tiny Qwen-Image: five updates in each mode."""
    jobs = Jobs(tmp_path_factory.mktemp("transformer"))
    common = {"folder": str(tiny_folder(ARCHITECTURE)), "call": pipelines.CALLS[ARCHITECTURE], "updates": 0}
    for lora, sharding in MODES:
        start = jobs.folder / f"{lora}.safetensors"
        job = {**common, "lora": LORA if lora else None, "load": str(start), "batch": f"lora-{lora}"}
        if not start.exists():
            batch = moved({k: v for k, v in job.items() if k != "load"}, start).batch()
            jobs.batch(job["batch"], [batch[:4], batch[4:]])
        jobs.add(**job, iterations=5, train={**UNCLIPPED, "sharding": sharding})
    jobs.run()
    return jobs


@pytest.mark.parametrize("number", range(4), ids=[f"{'lora' if lora else 'full'}-{how}" for lora, how in MODES])
def test_two_ranks_train_as_one(transformer, number):
    assert_equal_on_ranks(transformer, number)
    assert_as_alone(transformer, number)


@pytest.mark.parametrize("number", range(4), ids=[f"{'lora' if lora else 'full'}-{how}" for lora, how in MODES])
def test_whole_weights_are_sent(transformer, number):
    """What leaves the backend does not say how it was held; merged weights are those of one rank."""
    alone, (one, _) = transformer.alone(number), transformer.outcomes(number)
    sent = {n: t for n, t in one.tensors.items() if n.startswith("sent/")}
    assert sent.keys() == {n for n in alone.tensors if n.startswith("sent/")}
    for name, value in sent.items():
        torch.testing.assert_close(value, alone.tensors[name], rtol=1e-3, atol=1e-4)
