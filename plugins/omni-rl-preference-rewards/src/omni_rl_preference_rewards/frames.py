"""The images of a sample: its image, or frames of its video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import RewardError

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""


def images_of(batch: RewardBatch, frames: int | None) -> tuple[list[Pixels], list[int]]:
    """All images of a batch, sample by sample, and for each the row of its sample.

    Args:
        batch: N samples.
        frames: most frames of a video, see :func:`evenly_spaced`; None takes all.

    Raises:
        RewardError: a sample has neither image nor video.
    """
    images: list[Pixels] = []
    rows: list[int] = []
    for row, media in enumerate(batch.media):
        if "image" in media:
            own = [media["image"].data]
        elif "video" in media:
            video = media["video"].data  # (F, H, W, 3)
            own = [video[index] for index in evenly_spaced(len(video), frames)]
        else:
            present = ", ".join(sorted(media)) or "nothing"
            raise RewardError(
                f"this reward scores images, but the sample of prompt {batch.prompts[row]!r} has {present}",
                "use a model that produces images or video, or another reward",
            )
        images += own
        rows += [row] * len(own)
    return images, rows


def evenly_spaced(count: int, wanted: int | None) -> list[int]:
    """The middle frame of each of ``wanted`` equal parts of ``count`` frames; all frames if there are no more."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [int((part + 0.5) * count / wanted) for part in range(wanted)]


def means(scores: Sequence[float], rows: Sequence[int]) -> list[float]:
    """The mean score of each row's images, in order; ``rows`` counts up from 0 without gaps."""
    sums = np.bincount(rows, weights=scores)
    return [float(mean) for mean in sums / np.bincount(rows)]
