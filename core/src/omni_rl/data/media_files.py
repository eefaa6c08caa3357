"""Media that a configuration names: files to what diffusers takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from omni_rl.errors import DataError

VIDEOS = frozenset({".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm"})
"""Suffixes of clips, which pipelines take as a list of frames."""


def load(media: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """Arguments for ``__call__``: a picture, or a list of them for a list of files and for a clip.

    Raises:
        DataError: a file cannot be read as what its suffix says.
    """
    return {name: _load(value) for name, value in media.items()}


def _load(value: str | list[str]) -> Any:
    if isinstance(value, list):
        return [picture(Path(name)) for name in value]
    return frames(Path(value)) if Path(value).suffix.lower() in VIDEOS else picture(Path(value))


def picture(file: Path) -> Image.Image:
    """A picture in RGB, upright.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a picture that can be read: {error}") from error


def frames(file: Path) -> list[Image.Image]:
    """Every frame of a clip, in RGB.

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
        raise DataError(f"{file} is not a clip that can be read: {error}") from error


def _frame(opened: Image.Image, index: int) -> Image.Image:
    opened.seek(index)
    return opened.convert("RGB")


def form(media: Mapping[str, str | list[str]]) -> tuple[Any, ...]:
    """What batches go by: argument, number of files, and their sizes."""
    return tuple((name, _form(value)) for name, value in sorted(media.items()))


def _form(value: str | list[str]) -> Any:
    return tuple(map(_size, value)) if isinstance(value, list) else _size(value)


@lru_cache(maxsize=65536)
def _size(name: str) -> tuple[int, ...]:
    """Width and height as the file will be loaded; a clip's with its number of frames."""
    if Path(name).suffix.lower() in VIDEOS:
        clip = frames(Path(name))
        return (*clip[0].size, len(clip))
    try:
        with Image.open(name) as opened:
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientation: lies on its side
            return opened.size[::-1] if turned else opened.size
    except (OSError, ValueError) as error:
        raise DataError(f"{name} is not a picture that can be read: {error}") from error
