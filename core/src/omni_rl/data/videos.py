"""Reads the frames of one video file, and honours or refuses what the file says: rotation, times, shape of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from omni_rl.contracts.input_files import MEDIUM, require_regular
from omni_rl.data.images import in_rgb, reading
from omni_rl.errors import DataError

PIXELS = 512 * 1024**2
"""Most pixels of all frames together: 1.5 GB."""

_HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics (ITU-T H.273) whose colours are not those of a picture of 8 bits."""


def load_frames(file: Path) -> list[Image.Image]:
    """Every frame of a video, in RGB, rotated as the file says.

    Raises:
        DataError: as :func:`frames`.
    """
    return list(frames(file))


def frames(file: Path) -> Iterator[Image.Image]:
    """The frames one after the other.

    Raises:
        DataError: the file cannot be read, has no frames, too many, frames at unequal times, pixels that are not
            square, or HDR colours; or PyAV is not installed.
    """
    require_regular(file, MEDIUM)
    with reading(file, "video"):
        seen, pixels = 0, 0
        for frame in _gif(file) if file.suffix.lower() == ".gif" else _decoded(file):
            seen, pixels = seen + 1, pixels + frame.width * frame.height
            if pixels > PIXELS:
                raise DataError(f"{file} has more than {PIXELS // 1024**2} million pixels", "save a smaller clip")
            yield frame
        if not seen:
            raise DataError(f"{file} is not a readable video: it has no frames", "replace the file")


def _gif(file: Path) -> Iterator[Image.Image]:
    with Image.open(file, formats=["GIF"]) as opened:
        count = getattr(opened, "n_frames", 1)
        durations = []
        for index in range(count):
            opened.seek(index)
            durations.append(opened.info.get("duration", 0))
            yield in_rgb(file, opened, "GIF")
        if len(set(durations[:-1])) > 1:  # the last is often a pause before the repetition
            raise _unequal(file)


def _decoded(file: Path) -> Iterator[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise DataError(f"reading {file} needs PyAV", "pip install 'omni-rl[video]'") from error
    times: list[int] = []
    with av.open(str(file)) as clip:
        if not clip.streams.video:
            raise DataError(f"{file} is not a readable video: it has no video stream", "replace the file")
        stream = clip.streams.video[0]
        _check_stream(file, stream)
        for frame in clip.decode(stream):
            if frame.pts is not None:
                times.append(frame.pts)
            quarter_turns = round(getattr(frame, "rotation", 0) / 90)
            yield Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)))
    if _uneven(times):
        raise _unequal(file)


def _check_stream(file: Path, stream: Any) -> None:
    shape = stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio
    if shape and shape != 1:
        hint = "re-encode it: ffmpeg -i IN -vf 'scale=iw*sar:ih,setsar=1' OUT"
        raise DataError(f"{file} has pixels that are not square ({shape})", hint)
    transfer = getattr(stream.codec_context, "color_trc", None)
    if transfer in _HDR:
        raise DataError(f"{file} has HDR colours ({_HDR[transfer]})", "convert it to SDR (bt709) with 8 bits")


def _uneven(times: Sequence[int]) -> bool:
    """Whether the times of frames, in ticks, are further from a constant rate than rounding to ticks explains."""
    gaps = [b - a for a, b in pairwise(times)]
    usual = median(gaps) if gaps else 0
    return any(abs(gap - usual) > max(1.5, usual / 4) for gap in gaps)


def _unequal(file: Path) -> DataError:
    what = f"{file} has frames at unequal times, and pipelines take frames of equal times"
    return DataError(what, "re-encode it with a constant rate: ffmpeg -i IN -vf fps=24 OUT.mp4")
