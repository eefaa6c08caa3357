"""The result of one validation pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from omni_rl.contracts.types import Sample
from omni_rl.reporting.exhibits import Exhibit, picture

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
