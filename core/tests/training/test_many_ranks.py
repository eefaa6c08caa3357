"""The backend on two ranks, in two processes: it trains as on one rank, from the same trajectories."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from rank_jobs import LORA, MODES, UNCLIPPED, Jobs, assert_as_alone, assert_equal_on_ranks, moved
from safetensors.torch import load_file, save_file

from omni_rl_tiny import pipelines

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("many_ranks")]  # the processes start once

ARCHITECTURE = "QwenImagePipeline"


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
