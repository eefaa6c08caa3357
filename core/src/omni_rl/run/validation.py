"""Held-out scores before, during and after training: noise 0, own steps and arguments, equal noise every time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from omni_rl.errors import RewardError
from omni_rl.preferences import held_out_figures
from omni_rl.reporting import reward_figures
from omni_rl.reporting.exhibits import Exhibit
from omni_rl.reporting.validated import SHOWN, Validated
from omni_rl.run.collect import collect, without_trajectory
from omni_rl.sampling.plan_requests import validation_requests

if TYPE_CHECKING:
    from omni_rl.run.start import Run


def validate(run: Run, iteration: int, changes: Mapping[str, Any] | None = None) -> Validated:
    """Sample and score the validation prompts with the current weights (the average's, when one is kept)."""
    requests = validation_requests(run.config, run.validation_rows, run.policy_version, changes)
    with run.evaluated_weights():
        collected = collect(run.engine, run.validation_rewards, requests)
        pairs = held_out_figures(run) if getattr(run.algorithm, "offline", False) else {}
    values = torch.tensor([math.nan if s.value is None else s.value for s in collected.scored])
    figures = reward_figures(values.numpy())
    if not figures:
        raise RewardError("no validation sample has a reward", "; ".join(run.validation_rewards.failures[-1:]) or None)
    labels = collected.scored[0].components
    means = {label: _mean([s.components[label] for s in collected.scored]) for label in labels}
    samples = [without_trajectory(s.sample) for s in collected.scored]
    exhibits = [Exhibit.of(s.sample, run.model) for s in collected.scored[:SHOWN] if s.sample.trajectory is not None]
    return Validated(
        iteration, figures["reward"], figures.get("reward_stderr", math.nan), means, values, samples, pairs, exhibits
    )


def _mean(values: list[float | None]) -> float:
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else math.nan
