"""Starts the program of :mod:`ranks` on several ranks, and compares what they have with one process."""

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
    """Jobs that ``world`` ranks do in one start of their processes."""

    def __init__(self, folder: Path, world: int = 2) -> None:
        self.folder, self.world = folder, world
        self.jobs: list[dict[str, Any]] = []
        self.numbers: dict[str, int] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.printed = ""
        self.done: dict[str, list[Outcome]] = {}
        self.done_alone: dict[str, Outcome] = {}

    def batch(self, name: str, parts: list[Any]) -> None:
        """Store a batch: the rows of each rank, or None for no rows."""
        some = batches.forms(next(part for part in parts if part is not None))[0][1]
        for rank, part in enumerate(parts):
            ranks.save(self.folder / f"{name}.{rank}.safetensors", ranks.stored(some[:0] if part is None else part))

    def add(self, name: str, **job: Any) -> None:
        """Add a job."""
        self.numbers[name] = len(self.jobs)
        self.jobs.append(job)

    def run(self) -> None:
        """Run all jobs on all ranks."""
        self.start()
        self.wait()

    def start(self) -> None:
        """Start the processes of all ranks."""
        (self.folder / "jobs.json").write_text(json.dumps(self.jobs))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        program = [sys.executable, str(Path(ranks.__file__)), str(self.folder)]
        place = {"WORLD_SIZE": str(self.world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        for rank in range(self.world):
            environment = {**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (self.folder / f"printed.{rank}").open("wb") as printed:
                process = subprocess.Popen(program, env=environment, stdout=printed, stderr=subprocess.STDOUT)
            self.processes.append(process)

    def wait(self, timeout_s: float = 500) -> None:
        """Wait for the end of all processes."""
        try:
            for process in self.processes:
                process.wait(timeout_s)
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
        self.printed = "\n".join((self.folder / f"printed.{rank}").read_text()[-3000:] for rank in range(self.world))

    def outcomes(self, name: str) -> list[Outcome]:
        """What each rank has at the end of a job."""
        if name not in self.done:
            paths = [self.folder / f"{self.numbers[name]}.{rank}" for rank in range(self.world)]
            assert all(Path(f"{p}.safetensors").exists() for p in paths), self.printed
            self.done[name] = [
                Outcome(json.loads(Path(f"{p}.json").read_text()), load_file(f"{p}.safetensors")) for p in paths
            ]
        return self.done[name]

    def alone(self, name: str) -> Outcome:
        """The same job in this process with the rows of all ranks, in the order of their groups."""
        if name not in self.done_alone:
            job = self.jobs[self.numbers[name]]
            job = {**job, "train": {**job["train"], "steps_per_forward": 1}}
            parts = [
                ranks.restored(load_file(self.folder / f"{job['batch']}.{rank}.safetensors"))
                for rank in range(self.world)
            ]
            rows = sorted((row for part in parts for row in part.unbind(0)), key=lambda row: int(row["uid"]))
            done = ranks.trained(job, ranks.parts_of(job), batches.stacked(rows))
            self.done_alone[name] = Outcome(done["said"], done["tensors"])
        return self.done_alone[name]


def moved(job: Mapping[str, Any], file: Path) -> Parts:
    """One-rank parts of a job whose trained weights were moved off their start; stores their state."""
    parts = ranks.parts_of(job)
    parts.nudge()
    ranks.save(file, parts.backend.state()[0])
    return parts


def assert_equal_on_ranks(jobs: Jobs, name: str) -> None:
    """All ranks report the same figures and have the same weights and state."""
    first, *others = jobs.outcomes(name)
    for other in others:
        assert first.said["figures"] == other.said["figures"]
        assert first.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(value, other.tensors[name]) for name, value in first.tensors.items())


def assert_as_alone(jobs: Jobs, name: str, tolerance: float = 1e-5) -> None:
    """Gradient and figures of the first update, and the weights at the end, are those of one rank."""
    alone, (one, *_) = jobs.alone(name), jobs.outcomes(name)
    if any(key.startswith("gradient/") for key in alone.tensors):
        expected, found = alone.group("gradient"), one.group("gradient")
        assert expected.norm() > 0
        assert (found - expected).abs().max() <= tolerance * expected.norm()
    for here, there in zip(one.said["figures"], alone.said["figures"], strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-5)
    weights, wanted = one.group("policy"), alone.group("policy")
    assert (weights - wanted).norm() <= max(1e-4, tolerance) * wanted.norm()
