"""What an iteration trains on: samples of its own with their rewards, or pairs that somebody judged before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensordict import TensorDict

from omni_rl.preferences import stored_pairs
from omni_rl.run.collect import assemble, collect, components, reward_metrics, without_flat_groups
from omni_rl.sampling.plan_requests import rollout_requests

if TYPE_CHECKING:
    from omni_rl.run.start import Run


@dataclass(frozen=True)
class Experience:
    """A batch (N,) for the backend, figures for the metrics row, and how many samples it cost."""

    batch: TensorDict
    figures: dict[str, float]
    samples: int


def gather(run: Run) -> Experience:
    """The next iteration's."""
    if getattr(run.algorithm, "offline", False):
        batch = stored_pairs(run)
        return Experience(batch, {}, 2 * len(batch))
    return sampled(run)


def sampled(run: Run) -> Experience:
    """Sample, score, and compare within groups."""
    requests = rollout_requests(run.config, run.hooks, run.prompts, run.iteration, run.policy_version)
    with run.sampling_weights():
        collected = collect(run.engine, run.rewards, requests)
    for failure in collected.failures:
        run.progress.note(failure)
    batch = assemble(collected)
    batch["advantages"] = run.hooks.compute_advantages(
        rewards=batch["rewards"],
        uid=batch["uid"],
        components=components(collected.scored),
        weights={entry.label or entry.name: entry.weight for entry in run.config.reward},
    )
    figures = reward_metrics(collected.scored, batch)
    figures |= {"time/rollout_s": collected.rollout_s, "time/reward_s": collected.reward_s}
    batch = without_flat_groups(batch) if run.config.train.skip_flat_groups else batch
    return Experience(batch, figures, len(requests))
