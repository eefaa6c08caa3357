"""The default source of training data: draw samples, score them, compute advantages within groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omni_rl.contracts import trajectory
from omni_rl.contracts.events import State
from omni_rl.contracts.interfaces import Backend, Engine, Experience, ExperienceSource
from omni_rl.contracts.prompts import PromptSet
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import Copy
from omni_rl.errors import RunError
from omni_rl.plugins.manager import Hooks
from omni_rl.rewards.runner import RewardRunner
from omni_rl.run.collect import (
    Collected,
    assemble,
    collect,
    components,
    is_unscored,
    reward_metrics,
    why_unscored,
    without_flat_groups,
    without_still_steps,
)
from omni_rl.run.weight_sync import in_place
from omni_rl.sampling.plan_requests import rollout_requests


@dataclass(eq=False)
class Sampled:
    """Draws on-policy samples; see ``omni_rl.contracts.interfaces.ExperienceSource``."""

    config: Config
    hooks: Hooks
    prompts: PromptSet
    backend: Backend
    engine: Engine
    rewards: RewardRunner
    samples_with: Copy
    staleness = 0

    def next(self, state: State) -> Experience:
        """Draw and score the samples of an iteration, and compute their advantages."""
        requests = rollout_requests(self.config, self.hooks, self.prompts, state.iteration, state.policy_version)
        with in_place(self.backend, self.samples_with):
            collected = collect(self.engine, self.rewards, requests)
        if is_unscored(collected):
            return self._without_scores(collected)
        self.rewards.skipped.scored()
        batch = assemble(collected)
        batch["advantages"] = self.hooks.compute_advantages(
            rewards=batch["rewards"],
            uid=batch["uid"],
            components=components(collected.scored),
            weights={entry.label or entry.name: entry.weight for entry in self.config.reward},
        )
        figures = reward_metrics(collected.scored, batch)
        figures |= {"time/rollout_s": collected.rollout_s, "time/reward_s": collected.reward_s}
        batch = without_flat_groups(batch) if self.config.train.skip_flat_groups else batch
        batch = without_still_steps(batch, requests[0].sde) if len(batch) else batch
        return Experience(batch, figures, len(requests), collected.failures)

    def _without_scores(self, collected: Collected) -> Experience:
        """An iteration without updates."""
        note = self.rewards.skipped.skip(why_unscored(collected, "the iteration"))
        drawn = trajectory.collate([s.sample for s in collected.scored if s.sample.trajectory is not None])
        figures = {"reward/missing_ratio": 1.0, "reward/skipped_iterations": float(self.rewards.skipped.total)}
        figures |= {"time/rollout_s": collected.rollout_s, "time/reward_s": collected.reward_s}
        return Experience(drawn[:0], figures, len(collected.scored), [*collected.failures, note])

    def held_out(self, state: State) -> Mapping[str, float]:
        """No metrics: validation scores samples already."""
        return {}

    def state(self) -> dict[str, Any]:
        """The counters of skipped iterations; no request is in flight between two calls."""
        return self.rewards.skipped.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the counters."""
        self.rewards.skipped.load(state)

    def close(self) -> None:
        """Releases nothing: the run closes engine and rewards."""


def check_staleness(experience: Experience, source: ExperienceSource, state: State) -> None:
    """Check that no sample is older than the source allows.

    Raises:
        RunError: a sample is older.
    """
    versions = experience.batch["policy_version"]
    oldest = int(versions.min()) if len(versions) else state.policy_version
    if state.policy_version - oldest > source.staleness:
        what = f"a sample of policy version {oldest} would train policy version {state.policy_version}"
        raise RunError(f"{what}; its source allows a difference of at most {source.staleness}")


_: type[ExperienceSource] = Sampled
