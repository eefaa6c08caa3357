"""The default source of training data: draw samples, score them, compute advantages within groups."""

from __future__ import annotations

import contextlib
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
    components,
    is_unscored,
    judged,
    not_flat,
    outcomes,
    reward_metrics,
    why_unscored,
    without_still_steps,
)
from omni_rl.run.shares import InStep, at_least_one, batch_here, collect_training, is_here
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
    in_step: InStep = contextlib.nullcontext
    staleness = 0

    def next(self, state: State) -> Experience:
        """Draw and score the samples of an iteration, and compute their advantages."""
        requests = rollout_requests(self.config, self.hooks, self.prompts, state.iteration, state.policy_version)
        with in_place(self.backend, self.samples_with):
            groups_together = self.config.train.mini_batch_prompts
            collected = collect_training(self.engine, self.rewards, requests, groups_together, self.in_step)
        if is_unscored(collected):
            return self._without_scores(collected)
        self.rewards.skipped.scored()
        valid = judged(collected)
        advantages = self.hooks.compute_advantages(
            **outcomes(valid),
            components=components(valid),
            weights={entry.label or entry.name: entry.weight for entry in self.config.reward},
        )
        figures = reward_metrics(collected.scored, valid) | _seconds(collected)
        batch = batch_here(valid, advantages)
        if self.config.train.skip_flat_groups:
            batch = batch[not_flat(batch["uid"], batch["advantages"])]
        batch = without_still_steps(batch, requests[0].sde)
        return Experience(batch, figures, len(requests), collected.failures, dealt=True)

    def _without_scores(self, collected: Collected) -> Experience:
        """An iteration without updates."""
        note = self.rewards.skipped.skip(why_unscored(collected, "the iteration"))
        drawn = [s.sample for s in collected.scored if is_here(s.sample)]
        batch = trajectory.collate(at_least_one(drawn, collected.scored[0].sample.request))[:0]
        figures = {"reward/missing_ratio": 1.0, "reward/skipped_iterations": float(self.rewards.skipped.total)}
        figures |= _seconds(collected)
        return Experience(batch, figures, len(collected.scored), [*collected.failures, note], dealt=True)

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


def _seconds(collected: Collected) -> dict[str, float]:
    return {"time/rollout_s": collected.rollout_s, "time/reward_s": collected.reward_s}


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
