"""Prepares images of any size for a vision transformer, in the same way as the published scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from omni_rl_preference_rewards.frames import Pixels

Prepare = Callable[[Sequence[Pixels]], torch.Tensor]
"""Images of any sizes -> (N, 3, S, S) fp32, normalised."""


def cropped_as(folder: Path) -> Prepare:
    """Preparation by ``preprocessor_config.json`` of the folder; CLIP: resize the shorter side to S, crop the centre.

    Pillow resizes, whether or not torchvision is installed: it is what the published scores were computed with.
    """
    return _processed(CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True))


def cropped_to(size: int) -> Prepare:
    """CLIP's own preparation at ``size`` pixels."""
    square = {"height": size, "width": size}
    return _processed(CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=square))


def _processed(processor: CLIPImageProcessorPil) -> Prepare:
    def prepare(images: Sequence[Pixels]) -> torch.Tensor:
        pixels: torch.Tensor = processor(list(images), input_data_format="channels_last", return_tensors="pt")[
            "pixel_values"
        ]
        return pixels

    return prepare


def fitted_to(size: int) -> Prepare:
    """Resize the longer side to ``size`` pixels, and fill the rest with black, so that nothing is cropped.

    ``ResizeMaxSize`` of hpsv2 (resize_longest_max), which works on floats in [0, 1]: bicubic with antialiasing, which
    is torchvision's default for tensors since 0.17, without clamping.
    """

    def prepare(images: Sequence[Pixels]) -> torch.Tensor:
        pixels = torch.stack([_fitted(image, size) for image in images])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return (pixels - mean) / std

    return prepare


def _fitted(image: Pixels, size: int) -> torch.Tensor:
    """(3, size, size) fp32."""
    pixels = torch.tensor(image).movedim(-1, 0).float() / 255  # (3, H, W)
    scale = size / max(pixels.shape[1:])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[1:])
    resized = F.interpolate(pixels[None], (height, width), mode="bicubic", align_corners=False, antialias=True)[0]
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(resized, (left, size - width - left, top, size - height - top))
