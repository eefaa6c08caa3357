"""From requests to one scored batch: samples stream from the engine to the rewards group by group."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.requests import Request, Sde
from omni_rl.contracts.types import Sample
from omni_rl.errors import RewardError
from omni_rl.rewards.runner import RewardRunner, Scored
from omni_rl.sampling.stream import finished_groups
from omni_rl.schedulers.transition import has_density


@dataclass(frozen=True)
class Collected:
    """The scored samples of one iteration, in request order, and what they cost.

    ``failures`` says of each reward call that raised why. ``rollout_s`` is time spent sampling; ``reward_s`` is time
    spent waiting for rewards after the last sample: what rewards did while the engine was sampling costs nothing.
    """

    scored: list[Scored]
    failures: list[str]
    rollout_s: float
    reward_s: float


def collect(engine: Engine, rewards: RewardRunner, requests: Sequence[Request]) -> Collected:
    """Draw and score every request; the order in which samples and rewards finish does not matter."""
    started, known = time.perf_counter(), len(rewards.failures)
    for group in finished_groups(engine, requests):
        rewards.submit(group)
    sampled = time.perf_counter()
    scored = sorted(rewards.completed(), key=lambda s: s.sample.request.sample_id)
    assert [s.sample.request.sample_id for s in scored] == sorted(r.sample_id for r in requests)
    return Collected(scored, rewards.failures[known:], sampled - started, time.perf_counter() - sampled)


def assemble(collected: Collected) -> TensorDict:
    """The trajectories of the samples that have a reward, with ``rewards`` (N,) fp32; in request order.

    Raises:
        RewardError: no sample has a reward.
    """
    valid = [s for s in collected.scored if s.value is not None and s.sample.trajectory is not None]
    if not valid:
        reasons = [*(s.sample.error for s in collected.scored if s.sample.error), *collected.failures]
        raise RewardError(
            f"none of the iteration's {len(collected.scored)} samples has a reward"
            + (f": {reasons[0]}" if reasons else ""),
            "mend the cause, then try it with: omni-rl check CONFIG",
        )
    batch = trajectory.collate([s.sample for s in valid])
    batch["rewards"] = torch.tensor([s.value for s in valid], dtype=torch.float32)
    return batch


def components(scored: Sequence[Scored]) -> dict[str, torch.Tensor]:
    """Single rewards (N,) fp32 by label, of the samples that have a combined reward."""
    valid = [s for s in scored if s.value is not None and s.sample.trajectory is not None]
    return {
        label: torch.tensor([s.components[label] for s in valid], dtype=torch.float32) for label in valid[0].components
    }


def without_flat_groups(batch: TensorDict) -> TensorDict:
    """The rows of groups that have an advantage other than 0: the others would only thin the mean."""
    uid, found = batch["uid"], batch["advantages"] != 0
    return batch[torch.isin(uid, uid[found].unique())]


def without_still_steps(batch: TensorDict, sde: Sde) -> TensorDict:
    """Steps without noise have no density and no gradient: ``loss_weights`` (N, T) leaves them out of every mean."""
    keys = {trajectory.sigmas_key(batch, stream) for stream in batch["latents"].keys()}
    following = torch.stack([batch[key][:, 1:] for key in keys])  # (keys, N, T)
    dense = has_density(following, sde.noise_level, sde.type).any(0)  # (N, T)
    if not bool(dense.all()):
        batch["loss_weights"] = dense.float()
    return batch


def reward_metrics(scored: Sequence[Scored], batch: TensorDict) -> dict[str, float]:
    """``reward/mean``, ``reward/std``, the share of groups without signal, of missing samples, and each component."""
    rewards, uid = batch["rewards"], batch["uid"]
    flat = [bool((rewards[uid == u] == rewards[uid == u][0]).all()) for u in uid.unique()]
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        "reward/zero_std_ratio": sum(flat) / len(flat),
        "reward/missing_ratio": 1 - len(batch) / len(scored),
        **{f"reward/{label}/mean": float(values.mean()) for label, values in components(scored).items()},
    }


def without_trajectory(sample: Sample) -> Sample:
    """The sample with its media only: what validation keeps."""
    kept = None if sample.trajectory is None else sample.trajectory.select("media")
    return replace(sample, trajectory=kept)
