"""Core's own rewards: two that need no model, and one that calls a function of the user."""

from __future__ import annotations

import io
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from omni_rl.contracts.media import Media
from omni_rl.contracts.reward import RewardBatch, Scores
from omni_rl.errors import RewardError
from omni_rl.plugins.local import load_function

KILOBYTE = 1000


class Brightness:
    """``brightness``: the mean of all pixels and channels, in [0, 1]; for a video, over all its frames.

    A few updates already raise it visibly, so it shows quickly whether a run learns.
    """

    scope: ClassVar[Literal["sample", "group"]] = "sample"

    class Config(BaseModel):
        """No options."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, config: Config) -> None:
        del config

    def score(self, batch: RewardBatch) -> Scores:
        """One float in [0, 1] per sample."""
        return [float(_frames(media).mean(dtype=np.float64) / 255) for media in batch.media]


class JpegCompressibility:
    """``jpeg_compressibility``: minus the size of the image as a JPEG, in kilobytes of 1000 bytes.

    It is always negative; simpler images are closer to 0. A negative ``weight`` rewards detail instead. For a video,
    the mean over its frames. From DDPO (arXiv 2305.13301), whose code uses quality 95.
    """

    scope: ClassVar[Literal["sample", "group"]] = "sample"

    class Config(BaseModel):
        """Options of ``jpeg_compressibility``."""

        model_config = ConfigDict(extra="forbid")

        quality: Annotated[int, Field(ge=1, le=95)] = Field(90, description="JPEG quality, 1 to 95")

    def __init__(self, config: Config) -> None:
        self._quality = config.quality

    def score(self, batch: RewardBatch) -> Scores:
        """One negative float per sample, in kilobytes."""
        return [-self._kilobytes(_frames(media)) for media in batch.media]

    def _kilobytes(self, frames: np.ndarray) -> float:
        """Mean size of the frames (F, H, W, 3) uint8."""
        return float(np.mean([self._bytes(frame) for frame in frames])) / KILOBYTE

    def _bytes(self, image: np.ndarray) -> int:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=self._quality)
        return buffer.tell()


class PythonFunction:
    """``python``: a function in the user's Python file.

    Its signature is ``def score(batch: RewardBatch) -> list[float | None]`` (or ``async def``): one number per sample
    of the batch, in order; None for a sample that cannot be scored. With ``scope: group``, every call contains whole
    groups, which ``batch.uids`` identifies. The file is executed once per process.

    Raises:
        ConfigError: the file or the function does not exist, or the function does not take one argument.
        PluginError: the file cannot be imported; gives the line.
    """

    class Config(BaseModel):
        """Options of ``python``."""

        model_config = ConfigDict(extra="forbid")

        file: Path = Field(description="Python file with the function")
        function: str = Field("score", description="name of the function")
        scope: Literal["sample", "group"] = Field("sample", description="'group': every call contains whole groups")

    def __init__(self, config: Config) -> None:
        self.scope: Literal["sample", "group"] = config.scope
        self._function = load_function(config.file.absolute(), config.function)

    def score(self, batch: RewardBatch) -> Scores | Awaitable[Scores]:
        """The function's answer, not checked: the runner checks the answers of all rewards."""
        return cast("Scores | Awaitable[Scores]", self._function(batch))


def _frames(media: dict[str, Media]) -> np.ndarray:
    """Pixels (F, H, W, 3) uint8 of a sample; an image counts as one frame."""
    if "image" in media:
        return media["image"].data[None]
    if "video" in media:
        return media["video"].data
    raise RewardError(f"this reward needs an image or a video, but the sample has {sorted(media) or 'no media'}")
