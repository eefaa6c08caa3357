"""Media, as rewards receive them. All engines quantise pixels with the same function, :func:`quantise`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

MediaKind = Literal["image", "video", "audio"]
KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
RATE = "_rate"
"""Suffix of the optional entry ``<kind>_rate`` (B,) fp32: frames or audio samples per second."""


@dataclass(frozen=True)
class Media:
    """One generated image, video or audio.

    Attributes:
        kind: the kind of media.
        data: image uint8 (H, W, 3); video uint8 (F, H, W, 3); audio fp32 (C, S) in [-1, 1].
        rate: frames or audio samples per second; None for images.
    """

    kind: MediaKind
    data: np.ndarray
    rate: float | None = None


def quantise(kind: str, decoded: torch.Tensor) -> torch.Tensor:
    """Convert image (B, 3, H, W) or video (B, F, 3, H, W) in [0, 1] to uint8 (B, ..., H, W, 3) on the CPU.

    Audio (B, C, S) and rates (B,) stay fp32. Rounds half to even after scaling by 255, as
    ``VaeImageProcessor.numpy_to_pil`` does.
    """
    if kind == "audio" or kind.endswith(RATE):
        return decoded.float().cpu()
    scaled = decoded.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.movedim(-3, -1).contiguous().cpu()  # channels last


def media_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Media]:
    """Media by kind, from the ``media`` entry of one trajectory: ``{"image": (H, W, 3) uint8, ...}``."""
    rates = {kind: tensors.get(kind + RATE) for kind in KINDS}
    return {
        kind: Media(kind, tensors[kind].numpy(), None if rate is None else float(rate))
        for kind, rate in rates.items()
        if kind in tensors
    }
