"""Pictures for pipelines that take some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image

PIXELS = 64 * 64
"""Area to which the editing pipeline scales a picture; the published one is 1024 x 1024."""


def small_pictures(monkeypatch: object) -> None:
    """The editing pipeline scales to :data:`PIXELS`."""
    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
        monkeypatch.setattr(edit_plus, name, PIXELS)  # type: ignore[attr-defined]


def picture(file: Path, size: Sequence[int], seed: int) -> str:
    """A picture of noise around a colour of its own."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 200, 3)
    pixels = rng.integers(0, 56, (size[1], size[0], 3)) + level
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return file.name
