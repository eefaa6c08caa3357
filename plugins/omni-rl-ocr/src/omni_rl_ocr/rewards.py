"""The reward classes: their options, and ``score`` for a batch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import RewardError
from omni_rl_ocr.rapid import LineReader, SceneReader
from omni_rl_ocr.reading import Pixels, Reader
from omni_rl_ocr.tesseract import TesseractReader
from omni_rl_ocr.text import edit_score, target_text


class TargetConfig(BaseModel):
    """Options that every OCR reward has."""

    model_config = ConfigDict(extra="forbid")

    column: str | None = Field(
        default=None, description="metadata column with the target text; null: the prompt's first double-quoted part"
    )
    use_confidence: bool = Field(
        default=False,
        description="multiply the score by the recogniser's confidence, a finer signal than whole characters",
    )


class OCRConfig(TargetConfig):
    """Options of the reward ``ocr``."""

    detect: bool = Field(
        default=False,
        description="first find the lines of text in the image (for scenes); false: the image is one line of text",
    )
    width: int | None = Field(
        default=None,
        ge=16,
        le=4096,
        description="input width in pixels at a height of 48 (ignored with `detect`); null: keep the aspect ratio",
    )
    threads: int | None = Field(default=None, ge=1, description="threads of onnxruntime; null: chosen by onnxruntime")


class TesseractConfig(TargetConfig):
    """Options of the reward ``ocr_tesseract``."""

    characters: str | None = Field(
        default=None, min_length=1, description="characters that tesseract may read, such as 0123456789; null: all"
    )
    page_mode: int = Field(
        default=7, ge=3, le=13, description="tesseract's --psm: 7 is one line of text, 11 is text anywhere"
    )
    height: int = Field(
        default=64, ge=16, le=4096, description="images are scaled to this height in pixels before reading"
    )


class OCRReward:
    """``ocr``: 1 - edit distance / target length, as read by PP-OCRv6. In [0, 1]; higher is better."""

    Config = OCRConfig
    scope: Literal["sample", "group"] = "sample"

    def __init__(self, config: OCRConfig) -> None:
        self._config = config
        self._reader: Reader = (
            SceneReader(config.threads) if config.detect else LineReader(config.width, config.threads)
        )

    def score(self, batch: RewardBatch) -> list[float]:
        """One score per sample of ``batch``. Raises DataError for a prompt without a target."""
        return _score(batch, self._reader, self._config)


class TesseractReward:
    """``ocr_tesseract``: the same score with tesseract, to check that a gain does not depend on one recogniser."""

    Config = TesseractConfig
    scope: Literal["sample", "group"] = "sample"

    def __init__(self, config: TesseractConfig) -> None:
        self._config = config
        self._reader = TesseractReader(config.characters, config.page_mode, config.height)

    def score(self, batch: RewardBatch) -> list[float]:
        """One score per sample of ``batch``. Raises DataError for a prompt without a target."""
        return _score(batch, self._reader, self._config)


def _score(batch: RewardBatch, reader: Reader, config: TargetConfig) -> list[float]:
    targets = [
        target_text(prompt, metadata, config.column)
        for prompt, metadata in zip(batch.prompts, batch.metadata, strict=True)
    ]
    readings = reader.read(_images(batch))
    scores = [edit_score(reading.text, target) for reading, target in zip(readings, targets, strict=True)]
    if not config.use_confidence:
        return scores
    return [score * reading.confidence for score, reading in zip(scores, readings, strict=True)]


def _images(batch: RewardBatch) -> list[Pixels]:
    for prompt, media in zip(batch.prompts, batch.media, strict=True):
        if "image" not in media:
            present = ", ".join(sorted(media)) or "nothing"
            raise RewardError(
                f"an OCR reward reads images, but the sample of prompt {prompt!r} holds {present}",
                "use a model that produces images, or another reward",
            )
    return [media["image"].data for media in batch.media]
