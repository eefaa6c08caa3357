"""The reward ``{{ cookiecutter.key }}``: how colourful a picture is.

Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003): with rg = R - G and yb = (R + G) / 2 - B,

    M = sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)

over the pixels of a picture with values in 0..255. People call 15 slightly, 45 averagely and 109 extremely colourful.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from omni_rl.contracts import Media, RewardBatch, Scores
from omni_rl.errors import RewardError
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat


class Colourfulness:
    """Colourfulness / ``scale``; 0 for greys."""

    class Config(BaseModel):
        """Options beside ``name: {{ cookiecutter.key }}`` in the section ``reward``."""

        model_config = ConfigDict(extra="forbid")

        scale: PositiveFloat = Field(default=109.0, description="the colourfulness that scores 1")

    scope: ClassVar[Literal["sample", "group"]] = "sample"

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, batch: RewardBatch) -> Scores:
        """One score per picture. Answer None for a sample that cannot be scored; it then counts as missing."""
        return [colourfulness(_picture(media)) / self.config.scale for media in batch.media]


def colourfulness(picture: np.ndarray) -> float:
    """M of the module's docstring, for uint8 (H, W, 3)."""
    red, green, blue = np.moveaxis(picture.astype(np.float64), -1, 0)  # each (H, W)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def _picture(media: Mapping[str, Media]) -> np.ndarray:
    if "image" not in media:
        raise RewardError(
            f"the reward '{{ cookiecutter.key }}' scores images, and this sample has {', '.join(media)}",
            "remove it from `reward`, or train a model that draws images",
        )
    return media["image"].data
