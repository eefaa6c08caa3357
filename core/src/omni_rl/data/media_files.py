"""Reads image and video files into the objects that diffusers pipelines accept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from omni_rl.errors import DataError

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


def load_image(file: Path) -> Image.Image:
    """An image in RGB, rotated as its EXIF orientation says.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a readable image: {error}") from error


def load_frames(file: Path) -> list[Image.Image]:
    """Every frame of a video, in RGB.

    Raises:
        DataError: it cannot be read, or PyAV is not installed.
    """
    if file.suffix.lower() == ".gif":
        with Image.open(file) as opened:
            return [_frame(opened, i) for i in range(getattr(opened, "n_frames", 1))]
    try:
        import av
    except ImportError as error:
        raise DataError(f"reading {file} needs PyAV", "pip install 'omni-rl[video]'") from error
    try:
        with av.open(str(file)) as clip:
            return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{file} is not a readable video: {error}") from error


def _frame(opened: Image.Image, index: int) -> Image.Image:
    opened.seek(index)
    return opened.convert("RGB")


def form(media: Mapping[str, str | list[str]]) -> tuple[Any, ...]:
    """A key that is equal for media that can share a batch: arguments, numbers of files, and their sizes."""
    return tuple((name, _form(value)) for name, value in sorted(media.items()))


def _form(value: str | list[str]) -> Any:
    return tuple(map(_size, value)) if isinstance(value, list) else _size(value)


@lru_cache(maxsize=65536)
def _size(name: str) -> tuple[int, ...]:
    """Width and height as loaded, and for a video its number of frames."""
    if Path(name).suffix.lower() in VIDEOS:
        clip = load_frames(Path(name))
        return (*clip[0].size, len(clip))
    try:
        with Image.open(name) as opened:
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientation: rotated by 90 degrees
            return opened.size[::-1] if turned else opened.size
    except (OSError, ValueError) as error:
        raise DataError(f"{name} is not a readable image: {error}") from error
