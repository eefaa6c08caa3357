"""Media: what rewards see. Pixels are quantised once, here, on every engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

MediaKind = Literal["image", "video", "audio"]
KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
RATE = "_rate"
"""Beside media of a kind may stand ``<kind>_rate`` (B,) fp32: frames or sound samples per second."""


@dataclass(frozen=True)
class Media:
    """One piece of generated media.

    Attributes:
        kind: what it is.
        data: image uint8 (H, W, 3); video uint8 (F, H, W, 3); audio fp32 (C, S) in [-1, 1].
        rate: frames per second or samples per second; None for images.
    """

    kind: MediaKind
    data: np.ndarray
    rate: float | None = None


def quantise(kind: str, decoded: torch.Tensor) -> torch.Tensor:
    """Decoder output in [0, 1], image (B, 3, H, W) or video (B, F, 3, H, W), to channel-last uint8 on the CPU.

    Audio (B, C, S) and rates (B,) stay fp32. Rounds half to even after scaling by 255, as
    ``VaeImageProcessor.numpy_to_pil`` does.
    """
    if kind == "audio" or kind.endswith(RATE):
        return decoded.float().cpu()
    scaled = decoded.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.movedim(-3, -1).contiguous().cpu()  # channels last


def media_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Media]:
    """Media objects from a trajectory's ``media`` entry: ``{"image": (H, W, 3) uint8, ...}``."""
    rates = {kind: tensors.get(kind + RATE) for kind in KINDS}
    return {
        kind: Media(kind, tensors[kind].numpy(), None if rate is None else float(rate))
        for kind, rate in rates.items()
        if kind in tensors
    }
