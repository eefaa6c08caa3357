"""The reward ``{{ cookiecutter.key }}``: how colourful an image is.

Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003): with rg = R - G and yb = (R + G) / 2 - B,

    M = sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)

over the pixels of an image with values in 0..255. 15 is slightly, 45 averagely, 109 extremely colourful.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from omni_rl.contracts import Media, RewardBatch, Scores
from omni_rl.errors import RewardError
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat


class Colourfulness:
    """Colourfulness divided by ``scale``; 0 for grey images."""

    class Config(BaseModel):
        """Options in the section ``reward`` with ``name: {{ cookiecutter.key }}``."""

        model_config = ConfigDict(extra="forbid")

        scale: PositiveFloat = Field(default=109.0, description="colourfulness with the score 1")

    scope: ClassVar[Literal["sample", "group"]] = "sample"

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, batch: RewardBatch) -> Scores:
        """One score per image. Return None for a sample that cannot be scored; it is then left out of training."""
        return [colourfulness(_image(media)) / self.config.scale for media in batch.media]


def colourfulness(image: np.ndarray) -> float:
    """M of the module's docstring, for an image (H, W, 3) uint8."""
    red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)  # each (H, W)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def _image(media: Mapping[str, Media]) -> np.ndarray:
    if "image" not in media:
        raise RewardError(
            f"the reward '{{ cookiecutter.key }}' scores images, and this sample has {', '.join(media)}",
            "remove it from `reward`, or train a model that generates images",
        )
    return media["image"].data
