"""The result of one validation pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from omni_rl.contracts.types import Sample
from omni_rl.reporting.exhibits import Exhibit, image_of

SHOWN = 24
"""Number of samples of a validation that are shown, and stored exactly."""


@dataclass(frozen=True)
class Validated:
    """One validation pass.

    Attributes:
        iteration: the number of completed iterations.
        mean, stderr: mean of the combined reward over samples (NaN if none has one), and its standard error (NaN for
            fewer than two).
        components: label -> mean of that reward.
        rewards: (N,) fp32, NaN where missing.
        samples: N samples in prompt order, with media but without trajectories; on rank 0 only.
        pairs: figures on held-out pairs, for an algorithm that learns from stored pairs.
        exhibits: the first :data:`SHOWN` samples without failed ones, with everything needed to sample them again.
        notes: sentences to show to the user, e.g. about a reward that failed.
        skipped: how many validations of the run had no reward at all.
    """

    iteration: int
    mean: float
    stderr: float
    components: dict[str, float]
    rewards: torch.Tensor
    samples: list[Sample]
    pairs: dict[str, float] = field(default_factory=dict)
    exhibits: list[Exhibit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: int = 0

    def row(self) -> dict[str, float]:
        """The metrics, with the prefix ``val/``."""
        judged = {f"val/pairs/{name}": value for name, value in self.pairs.items()}
        skipped = {"val/reward/skipped_validations": float(self.skipped)} if self.skipped else {}
        if math.isnan(self.mean):
            return {**judged, **skipped}
        known = {label: value for label, value in self.components.items() if not math.isnan(value)}
        single = {f"val/reward/{label}/mean": value for label, value in known.items()}
        error = {} if math.isnan(self.stderr) else {"val/reward/stderr": self.stderr}
        return {"val/reward/mean": self.mean, **error, **single, **judged, **skipped}

    def images(self) -> np.ndarray:
        """(N, H, W, 3) uint8; for videos, frames side by side.

        A smaller image is placed in the upper left corner of a black one. A sample that the engine failed is black.
        """
        drawn = {i: image_of(s) for i, s in enumerate(self.samples) if s.trajectory is not None}
        height, width = (max(image.shape[axis] for image in drawn.values()) for axis in (0, 1))
        images = np.zeros((len(self.samples), height, width, 3), np.uint8)
        for i, image in drawn.items():
            images[i, : image.shape[0], : image.shape[1]] = image
        return images
