"""Held-out scores before, during and after training: noise 0, own steps and arguments, equal noise every time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omni_rl.contracts.types import Sample
from omni_rl.errors import RewardError
from omni_rl.preferences import held_out_figures
from omni_rl.reporting import reward_figures
from omni_rl.reporting.exhibits import Exhibit, picture
from omni_rl.run.collect import collect, without_trajectory
from omni_rl.sampling.plan_requests import validation_requests

if TYPE_CHECKING:
    from omni_rl.run.start import Run


SHOWN = 24
"""Samples of a validation that are shown, and kept exactly as drawn."""


@dataclass(frozen=True)
class Validated:
    """One validation pass.

    Attributes:
        iteration: completed iterations when it was made.
        mean, stderr: of the combined reward over samples; stderr is NaN for a single sample.
        components: mean of each reward by label.
        rewards: (N,) fp32, NaN where missing.
        samples: N samples in prompt order, media only.
        pairs: figures on held-out pairs, of an algorithm that learns from pairs.
        exhibits: the first :data:`SHOWN` samples that the engine drew, with what it takes to draw them again.
    """

    iteration: int
    mean: float
    stderr: float
    components: dict[str, float]
    rewards: torch.Tensor
    samples: list[Sample]
    pairs: dict[str, float] = field(default_factory=dict)
    exhibits: list[Exhibit] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Metrics, prefixed ``val/``."""
        single = {f"val/reward/{label}/mean": value for label, value in self.components.items()}
        error = {} if math.isnan(self.stderr) else {"val/reward/stderr": self.stderr}
        judged = {f"val/pairs/{name}": value for name, value in self.pairs.items()}
        return {"val/reward/mean": self.mean, **error, **single, **judged}

    def images(self) -> np.ndarray:
        """(N, H, W, 3) uint8; frames of videos side by side. Smaller pictures stand in the upper left corner of a black
        one, and all is black where the engine failed the sample.
        """
        drawn = {i: picture(s) for i, s in enumerate(self.samples) if s.trajectory is not None}
        height, width = (max(p.shape[axis] for p in drawn.values()) for axis in (0, 1))
        images = np.zeros((len(self.samples), height, width, 3), np.uint8)
        for i, found in drawn.items():
            images[i, : found.shape[0], : found.shape[1]] = found
        return images


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
