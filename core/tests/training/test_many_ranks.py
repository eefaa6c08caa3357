"""The backend on two ranks, in two processes: it trains as on one rank, from the same trajectories."""

from __future__ import annotations

import json
import os
import shutil
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
from safetensors.torch import load_file, save_file

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
        self.numbers: dict[str, int] = {}
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
        self.printed = "\n".join(said)

    def outcomes(self, name: str) -> list[Outcome]:
        """What both ranks have at the end of a job."""
        if name not in self.done:
            paths = [self.folder / f"{self.numbers[name]}.{rank}" for rank in range(2)]
            assert all(Path(f"{p}.safetensors").exists() for p in paths), self.printed
            self.done[name] = [
                Outcome(json.loads(Path(f"{p}.json").read_text()), load_file(f"{p}.safetensors")) for p in paths
            ]
        return self.done[name]

    def alone(self, name: str) -> Outcome:
        """The same job in this process with the rows of both ranks, in the order of their groups."""
        if name not in self.done_alone:
            job = self.jobs[self.numbers[name]]
            job = {**job, "train": {**job["train"], "steps_per_forward": 1}}
            parts = [ranks.restored(load_file(self.folder / f"{job['batch']}.{rank}.safetensors")) for rank in range(2)]
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
    """Both ranks report the same figures and have the same weights and state."""
    first, second = jobs.outcomes(name)
    assert first.said["figures"] == second.said["figures"]
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())


def assert_as_alone(jobs: Jobs, name: str, tolerance: float = 1e-5) -> None:
    """Gradient and figures of the first update, and the weights at the end, are those of one rank."""
    alone, (one, _) = jobs.alone(name), jobs.outcomes(name)
    if any(key.startswith("gradient/") for key in alone.tensors):
        expected, found = alone.group("gradient"), one.group("gradient")
        assert expected.norm() > 0
        assert (found - expected).abs().max() <= tolerance * expected.norm()
    for here, there in zip(one.said["figures"], alone.said["figures"], strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-5)
    weights, wanted = one.group("policy"), alone.group("policy")
    assert (weights - wanted).norm() <= max(1e-4, tolerance) * wanted.norm()


ALGORITHMS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow_grpo": ("omni_rl_flow_grpo:FlowGRPO", {"kl_beta": 0.1}),
    "corrected": (
        "omni_rl_flow_grpo:FlowGRPO",
        {"old_log_probs": "recomputed", "correction": {"normalise": True, "keep": [0.5, 2.0]}},
    ),
    "dance_grpo": ("omni_rl_dance_grpo:DanceGRPO", {}),
    "mix_grpo": ("omni_rl_mix_grpo:MixGRPO", {}),
    "grpo_guard": ("omni_rl_grpo_guard:GRPOGuard", {}),
    "flow_dppo": ("omni_rl_flow_dppo:FlowDPPO", {}),
    "diffusion_nft": ("omni_rl_diffusion_nft:DiffusionNFT", {}),
    "awm": ("omni_rl_awm:AWM", {"kl_beta": 0.1}),
    "diffusion_dpo": ("omni_rl_diffusion_dpo:DiffusionDPO", {}),
}
"""Every algorithm that learns from samples: its class and options."""


BOTH = ("replicated", "sharded")
ALGORITHM_JOBS = [f"{n}-{how}" for n in ALGORITHMS for how in BOTH]


def transformer_jobs(jobs: Jobs, folder: Path) -> None:
    """Five updates of the tiny Qwen-Image in each mode."""
    common = {
        "plugin": "omni_rl_qwen_image",
        "folder": str(folder),
        "call": pipelines.CALLS[ARCHITECTURE],
        "updates": 0,
    }
    for lora, sharding in MODES:
        start = jobs.folder / f"{lora}.safetensors"
        job = {**common, "lora": LORA if lora else None, "load": str(start), "batch": f"lora-{lora}"}
        if not start.exists():
            batch = moved({k: v for k, v in job.items() if k != "load"}, start).batch()
            jobs.batch(job["batch"], [batch[:4], batch[4:]])
        jobs.add(
            f"{'lora' if lora else 'full'}-{sharding}", **job, iterations=5, train={**UNCLIPPED, "sharding": sharding}
        )


def stored_in_bf16(folder: Path, target: Path) -> Path:
    """A copy of a pipeline whose denoiser's weights are rounded to bf16 and stored so, as published ones are."""
    shutil.copytree(folder, target)
    for file in (target / "transformer").glob("*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    return target


def bf16_jobs(jobs: Jobs, folder: Path) -> None:
    """The tiny Qwen-Image from files in bf16: ranks shard them as they are stored, and convert their own parts."""
    common = {"plugin": "omni_rl_qwen_image", "folder": str(folder), "call": pipelines.CALLS[ARCHITECTURE]}
    for precision, lora in (("fp32", None), ("bf16", None), ("bf16", LORA)):
        job = {**common, "precision": precision, "lora": lora}
        name = f"bf16-files-{precision}-{'lora' if lora else 'full'}"
        batch = ranks.parts_of({**job, "train": {"sharding": "replicated"}}).batch()
        jobs.batch(name, [batch[:4], batch[4:]])
        jobs.add(name, **job, batch=name, train={**UNCLIPPED, "sharding": "sharded"})


def ragged_jobs(jobs: Jobs) -> None:
    """Unequal shares of the toy model, with copies of the weights and several updates an iteration."""
    batch = ranks.parts_of({}).batch()
    rows = batch[torch.tensor([0, 1, 2, 3, 4])]
    for name, parts in {
        "five": [rows[:4], rows[4:]],
        "idle": [batch, None],
        "first-idle": [None, batch],
        "one-group": [batch[:2], None],
        "one-row": [None, batch[:1]],
    }.items():
        jobs.batch(name, parts)
        for sharding in BOTH:
            options = {"mini_batch_prompts": 2, "inner_epochs": 2, "ema": {"decay": 0.5}, "offload": name == "five"}
            train = {**UNCLIPPED, "sharding": sharding, "micro_batch_size": 1, **options}
            jobs.add(f"{name}-{sharding}", batch=name, iterations=2, reference=True, train=train)
    jobs.add("copies-sharded", batch="five", iterations=2, reference=True, train={**train, "replicas": 2})


def algorithm_jobs(jobs: Jobs) -> None:
    """Each algorithm on the toy model; the second rank has no rows."""
    for name, (algorithm, options) in ALGORITHMS.items():
        job = {"algorithm": algorithm, "options": options}
        jobs.batch(name, [ranks.parts_of(job).batch(), None])
        for sharding in BOTH:
            train = {**UNCLIPPED, "sharding": sharding, "steps_per_forward": 2 if sharding == "sharded" else 1}
            jobs.add(f"{name}-{sharding}", **job, batch=name, iterations=2, train=train)


@pytest.fixture(scope="module")
def jobs(tiny_folder, tmp_path_factory) -> Jobs:
    """All jobs of this module, done by two ranks."""
    found = Jobs(tmp_path_factory.mktemp("ranks"))
    ragged_jobs(found)
    algorithm_jobs(found)
    transformer_jobs(found, tiny_folder(ARCHITECTURE))
    bf16_jobs(found, stored_in_bf16(tiny_folder(ARCHITECTURE), found.folder / "model"))
    found.run()
    return found


FOUR = [f"{'lora' if lora else 'full'}-{how}" for lora, how in MODES]
RAGGED = [f"{name}-{how}" for name in ("five", "idle", "first-idle", "one-group", "one-row") for how in BOTH]
RAGGED += ["copies-sharded"]


@pytest.mark.parametrize("name", [*FOUR, *RAGGED])
def test_two_ranks_train_as_one(jobs, name):
    assert_equal_on_ranks(jobs, name)
    assert_as_alone(jobs, name)


@pytest.mark.parametrize("name", ALGORITHM_JOBS)
def test_every_algorithm_trains_with_an_idle_rank(jobs, name):
    assert_equal_on_ranks(jobs, name)
    assert_as_alone(jobs, name)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("bf16-files-fp32-full", 1e-5), ("bf16-files-bf16-full", 1e-2), ("bf16-files-bf16-lora", 1e-2)],
)
def test_weights_are_sharded_as_they_are_stored(jobs, name, tolerance):
    """Masters are fp32, as in one process that converts all weights when it loads them."""
    assert_equal_on_ranks(jobs, name)
    assert_as_alone(jobs, name, tolerance)
    one, alone = jobs.outcomes(name)[0], jobs.alone(name)
    assert {t.dtype for n, t in one.tensors.items() if n.startswith("policy/")} == {torch.float32}
    assert one.tensors.keys() == alone.tensors.keys()


@pytest.mark.parametrize("name", FOUR)
def test_whole_weights_are_sent(jobs, name):
    """What leaves the backend does not say how it was held; merged weights are those of one rank."""
    alone, (one, _) = jobs.alone(name), jobs.outcomes(name)
    sent = {n: t for n, t in one.tensors.items() if n.startswith("sent/")}
    assert sent.keys() == {n for n in alone.tensors if n.startswith("sent/")}
    for name, value in sent.items():
        torch.testing.assert_close(value, alone.tensors[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in RAGGED if n.endswith("sharded")])
def test_few_rows_are_filled(jobs, name):
    """The rows that all ranks compute are those of one rank, and fewer than the ranks more in each mini-batch step."""
    alone, both = jobs.alone(name), jobs.outcomes(name)
    steps, passes = 2, 2 * 2 * 2  # iterations, epochs, at most two mini-batches
    extra = sum(each.said["rows"] for each in both) - alone.said["rows"]
    assert 0 <= extra <= steps * passes * (len(both) - 1)


@pytest.mark.parametrize("name", ["full-sharded", "full-replicated", "five-sharded"])
def test_the_state_of_two_ranks_is_that_of_one(jobs, name):
    """A state that two ranks wrote is loaded by one rank, and says the same there."""
    one = jobs.outcomes(name)[0]
    job = {k: v for k, v in jobs.jobs[jobs.numbers[name]].items() if k != "load"}
    parts = ranks.parts_of(job)
    groups = ("policy", "optimizer", "reference", "ema")
    state = {n: t for n, t in one.tensors.items() if n.startswith(tuple(f"{group}/" for group in groups))}
    parts.backend.load_state(state, one.said["extra"])
    again, extra = parts.backend.state()
    assert extra == one.said["extra"]
    assert again.keys() == state.keys()
    assert all(torch.equal(value, state[n]) for n, value in again.items())
