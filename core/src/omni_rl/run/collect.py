"""Sample and score the requests of one iteration; each group is scored as soon as it is complete."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.requests import Request, Sde
from omni_rl.contracts.types import Sample, Tensors
from omni_rl.errors import RewardError
from omni_rl.parallel.agreement import any_rank
from omni_rl.rewards.runner import RewardRunner, Scored
from omni_rl.sampling.stream import finished_groups
from omni_rl.schedulers.transition import has_density


@dataclass(frozen=True)
class Collected:
    """The scored samples of one iteration, in the order of the requests.

    ``failures`` has one sentence per reward call that failed. ``rollout_s`` is the time in seconds until the last
    sample; ``reward_s`` is the time after that until the last reward, because rewards run while the engine samples.
    """

    scored: list[Scored]
    failures: list[str]
    rollout_s: float
    reward_s: float


def collect(engine: Engine, rewards: RewardRunner, requests: Sequence[Request]) -> Collected:
    """Sample and score every request; the result does not depend on the order in which samples finish."""
    collected = score(rewards, finished_groups(engine, requests))
    assert [s.sample.request.sample_id for s in collected.scored] == sorted(r.sample_id for r in requests)
    return collected


def score(rewards: RewardRunner, groups: Iterable[Sequence[Sample]], before_s: float = 0.0) -> Collected:
    """Score groups as they are drawn; ``before_s`` are the seconds of what was drawn before."""
    started, known = time.perf_counter(), len(rewards.failures)
    for group in groups:
        rewards.submit(group)
    sampled = time.perf_counter()
    scored = sorted(rewards.completed(), key=lambda s: s.sample.request.sample_id)
    seconds = before_s + sampled - started
    return Collected(scored, rewards.failures[known:], seconds, time.perf_counter() - sampled)


def is_unscored(collected: Collected) -> bool:
    """Whether samples were drawn, but none of them has a reward."""
    drawn = [s for s in collected.scored if s.sample.trajectory is not None]
    return bool(drawn) and all(s.value is None for s in drawn)


def why_unscored(collected: Collected, what: str) -> str:
    """``none of WHAT's N samples has a reward: ...``; the label of the reward if it gave no reason."""
    reasons = [*collected.failures, *(s.sample.error for s in collected.scored if s.sample.error)]
    silent = sorted({label for s in collected.scored for label, score in s.components.items() if score is None})
    reason = reasons[0] if reasons else f"reward {', '.join(map(repr, silent))} returned None"
    return f"none of {what}'s {len(collected.scored)} samples has a reward: {reason}"


def judged(collected: Collected) -> list[Scored]:
    """The samples that have a reward, in the requests' order, whichever rank holds their trajectories.

    Raises:
        RewardError: no sample has a reward.
    """
    valid = [s for s in collected.scored if s.value is not None and s.sample.trajectory is not None]
    if not valid:
        hint = "fix the cause, then try it with: omni-rl check CONFIG"
        raise RewardError(why_unscored(collected, "the iteration"), hint)
    return valid


def outcomes(valid: Sequence[Scored]) -> Tensors:
    """``rewards`` (N,) fp32 and ``uid`` (N,) int64 of N samples, which are small enough for every rank."""
    return {
        "rewards": torch.tensor([s.value for s in valid], dtype=torch.float32),
        "uid": torch.tensor([s.sample.request.uid for s in valid], dtype=torch.int64),
    }


def components(valid: Sequence[Scored]) -> Tensors:
    """Each reward (N,) fp32 by label, of N samples with a total reward."""
    return {
        label: torch.tensor([s.components[label] for s in valid], dtype=torch.float32) for label in valid[0].components
    }


def not_flat(uid: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """(N,) bool: rows of groups in which an advantage differs from 0; the other groups have no gradient."""
    return torch.isin(uid, uid[advantages != 0].unique())


def without_still_steps(batch: TensorDict, sde: Sde) -> TensorDict:
    """Steps without noise have no density and no gradient: ``loss_weights`` (N, T) leaves them out of every mean.

    All ranks get the entry if one of them does.
    """
    keys = {trajectory.sigmas_key(batch, stream) for stream in batch["latents"].keys()}
    following = torch.stack([batch[key][:, 1:] for key in keys])  # (keys, N, T)
    dense = has_density(following, sde.noise_level, sde.type).any(0)  # (N, T)
    if any_rank(not bool(dense.all())):
        batch["loss_weights"] = dense.float()
    return batch


def reward_metrics(scored: Sequence[Scored], valid: Sequence[Scored]) -> dict[str, float]:
    """``reward/*`` metrics: mean, std, share of groups with equal rewards, share of missing samples, single means."""
    rewards, uid = outcomes(valid).values()
    flat = [bool((rewards[uid == u] == rewards[uid == u][0]).all()) for u in uid.unique()]
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        "reward/zero_std_ratio": sum(flat) / len(flat),
        "reward/missing_ratio": 1 - len(valid) / len(scored),
        **{f"reward/{label}/mean": float(values.mean()) for label, values in components(valid).items()},
    }


def without_trajectory(sample: Sample) -> Sample:
    """The sample with its media only; validation keeps no trajectories."""
    kept = None if sample.trajectory is None else sample.trajectory.select("media")
    return replace(sample, trajectory=kept)
