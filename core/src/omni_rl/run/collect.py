"""From requests to one scored batch: samples stream from the engine to the rewards group by group."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Engine, Sample
from omni_rl.errors import RewardError, RunError
from omni_rl.rewards.runner import RewardRunner, Scored

RETRIES = 2
"""How often a request that the engine failed is asked for again, with the same keys and therefore the same draws."""


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


def finished_groups(engine: Engine, requests: Sequence[Request]) -> Iterator[list[Sample]]:
    """Whole groups, as they become complete; failed requests are retried, then returned without a trajectory."""
    expected = Counter(request.uid for request in requests)
    arrived: dict[int, list[Sample]] = defaultdict(list)
    for sample in _with_retries(engine, requests):
        group = arrived[sample.request.uid]
        group.append(sample)
        if len(group) == expected[sample.request.uid]:
            yield sorted(group, key=lambda s: s.request.sample_id)


def _with_retries(engine: Engine, requests: Sequence[Request]) -> Iterator[Sample]:
    asked = list(requests)
    for last in [False] * RETRIES + [True]:
        engine.submit(asked)
        outstanding = {request.sample_id for request in asked}
        failed = []
        for sample in engine.completed():
            if sample.request.sample_id not in outstanding:
                raise RunError(f"the engine returned sample {sample.request.sample_id} twice or unasked")
            outstanding.remove(sample.request.sample_id)
            if sample.error is None or last:
                _check_identity(sample)
                yield sample
            else:
                failed.append(sample.request)
        if outstanding:
            raise RunError(f"the engine lost {len(outstanding)} of {len(asked)} requests, e.g. {min(outstanding)}")
        if not failed:
            return
        asked = failed


def _check_identity(sample: Sample) -> None:
    """An engine that hands over another request's trajectory, or one of an old policy, must not be trained on."""
    if sample.trajectory is None:
        return
    for name in ("uid", "sample_id", "policy_version"):
        got, wanted = int(sample.trajectory[name]), getattr(sample.request, name)
        if got != wanted:
            raise RunError(f"the engine returned {name} {got} for the request with {name} {wanted}")


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
