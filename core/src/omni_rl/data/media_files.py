"""Reads image and video files into the objects that diffusers pipelines accept."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from omni_rl.contracts.input_files import MEDIUM, require_regular
from omni_rl.data.images import load_image, reading
from omni_rl.data.videos import frames, load_frames

__all__ = ["VIDEOS", "form", "load", "load_frames", "load_image", "verify"]

VIDEOS = frozenset({".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm"})
"""Suffixes of video files, which pipelines accept as a list of frames."""


def load(media: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """Arguments for the pipeline's ``__call__``: an image, or a list of images for a list of files and for a video.

    Raises:
        DataError: a file cannot be read.
    """
    return {name: _load(value) for name, value in media.items()}


def _load(value: str | list[str]) -> Any:
    if isinstance(value, list):
        return [load_image(Path(name)) for name in value]
    return load_frames(Path(value)) if Path(value).suffix.lower() in VIDEOS else load_image(Path(value))


def verify(name: Path | str) -> None:
    """Decode a file whole, without keeping it.

    Raises:
        DataError: it cannot be read as :func:`load` reads it.
    """
    file = Path(name)
    if file.suffix.lower() in VIDEOS:
        deque(frames(file), maxlen=0)
    else:
        load_image(file)


def form(media: Mapping[str, str | list[str]]) -> tuple[Any, ...]:
    """A key that is equal for media that can share a batch: arguments, numbers of files, and their sizes."""
    return tuple((name, _form(value)) for name, value in sorted(media.items()))


def _form(value: str | list[str]) -> Any:
    return tuple(map(_size, value)) if isinstance(value, list) else _size(value)


@lru_cache(maxsize=65536)
def _size(name: str) -> tuple[int, ...]:
    """Width and height as loaded, and for a video its number of frames."""
    file = Path(name)
    if file.suffix.lower() in VIDEOS:
        sizes = [frame.size for frame in frames(file)]
        return (*sizes[0], len(sizes))
    require_regular(file, MEDIUM)
    with reading(file, "image"), Image.open(file) as opened:
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientation: rotated by 90 degrees
        return opened.size[::-1] if turned else opened.size
