"""Validation: rewards on held-out prompts, without SDE noise, and with the same initial noise every time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from omni_rl.contracts.events import State
from omni_rl.contracts.traits import Copy
from omni_rl.errors import RewardError
from omni_rl.parallel.layout import data_ranks
from omni_rl.reporting.exhibits import Exhibit
from omni_rl.reporting.health import reward_figures
from omni_rl.reporting.validated import SHOWN, Validated
from omni_rl.rewards.runner import RewardRunner, few_samples
from omni_rl.run.assembly import Assembly
from omni_rl.run.collect import Collected, is_unscored, why_unscored, without_trajectory
from omni_rl.run.shares import collect_validation
from omni_rl.run.weight_sync import engine_with
from omni_rl.sampling.plan_requests import validation_requests


def validate(parts: Assembly, state: State, changes: Mapping[str, Any] | None = None) -> Validated:
    """Sample and score the validation prompts with the trained weights, or with their EMA if the run has one.

    ``changes`` replace arguments of the pipeline.
    """
    config, rewards = parts.config, parts.validation_rewards
    requests = validation_requests(config, parts.validation_rows, state.policy_version, changes)
    copy: Copy = "trained" if config.train.ema is None else "ema"
    with engine_with(copy, parts.backend, parts.engine, state.policy_version, parts.traits.samples_with):
        collected = collect_validation(parts.engine, rewards, requests, SHOWN, parts.model.in_step)
        held_out = dict(parts.source.held_out(state))
    notes = _notes(collected, rewards, config.validation.samples_per_prompt)
    values = torch.tensor([math.nan if s.value is None else s.value for s in collected.scored])
    figures = reward_figures(values.numpy())
    labels = collected.scored[0].components
    samples = [s.sample for s in collected.scored] if data_ranks().rank == 0 else []
    shown = [sample for sample in samples[:SHOWN] if sample.trajectory is not None]
    with parts.model.in_step():
        exhibits = [Exhibit.of(sample, parts.model) for sample in shown]
    return Validated(
        iteration=state.iteration,
        mean=figures.get("reward", math.nan),
        stderr=figures.get("reward_stderr", math.nan),
        components={label: _mean([s.components[label] for s in collected.scored]) for label in labels},
        rewards=values,
        samples=[without_trajectory(sample) for sample in samples],
        pairs=held_out,
        notes=notes,
        skipped=rewards.skipped.total,
        exhibits=exhibits,
    )


def _notes(collected: Collected, rewards: RewardRunner, each: int) -> list[str]:
    """What went wrong. A validation in which no sample has a reward is counted; the run goes on without its mean.

    Raises:
        RewardError: the engine drew no sample, or it is the last in a row that may be skipped.
    """
    why = why_unscored(collected, "the validation")
    if is_unscored(collected):
        why = f"{why}\n  {few_samples(rewards, each)}".rstrip()
        return [*collected.failures, rewards.skipped.skip(why)]
    if all(s.value is None for s in collected.scored):
        raise RewardError(why)
    rewards.skipped.scored()
    return collected.failures


def _mean(values: list[float | None]) -> float:
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else math.nan
