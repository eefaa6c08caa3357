"""Images for pipelines that take some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image

from omni_rl_tiny.pipelines import FROM_PICTURES

PIXELS = 64 * 64
"""Area to which editing pipelines scale an image; the published one is 1024 x 1024."""


def small_pictures(monkeypatch: object) -> None:
    """Editing pipelines scale to :data:`PIXELS`."""
    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
        monkeypatch.setattr(edit_plus, name, PIXELS)  # type: ignore[attr-defined]
    for module in (edit, longcat_edit):
        own = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", _small(own))  # type: ignore[attr-defined]


def _small(calculate_dimensions: Callable[[float, float], Any]) -> Callable[[float, float], Any]:
    return lambda _, ratio: calculate_dimensions(PIXELS, ratio)


def media(architecture: str, folder: Path, prompts: int) -> list[dict[str, str | list[str]]]:
    """For each prompt the files that the pipeline is sampled from; nothing where it takes none."""
    counts = FROM_PICTURES.get(architecture, {})
    return [{name: _files(folder, f"{i}-{name}", count, i) for name, count in counts.items()} for i in range(prompts)]


def _files(folder: Path, stem: str, count: int, seed: int) -> str | list[str]:
    paths = [folder / f"{stem}-{number}.png" for number in range(count)]
    if "mask" in stem:
        names = [mask(path, (32, 32), seed) for path in paths]
    else:
        names = [picture(path, (32, 32), 2 * number + seed) for number, path in enumerate(paths)]
    files = [str(folder / name) for name in names]
    return files if count > 1 else files[0]


def picture(file: Path, size: Sequence[int], seed: int) -> str:
    """An image of noise around a colour of its own."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 200, 3)
    pixels = rng.integers(0, 56, (size[1], size[0], 3)) + level
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return file.name


def mask(file: Path, size: Sequence[int], seed: int) -> str:
    """White where something is to be filled in: the left, or as much of the top."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    (pixels.T if seed % 2 else pixels)[: size[0] // 2] = 255
    Image.fromarray(pixels).save(file)
    return file.name
