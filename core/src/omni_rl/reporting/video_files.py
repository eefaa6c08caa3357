"""Writes videos with sound as MP4 files (H.264 and AAC), with PyAV (the extra ``video``)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from omni_rl.contracts.media import Media

FPS = 16.0
"""Frames per second of videos whose pipeline does not give a frame rate."""


def available() -> bool:
    """Whether PyAV is installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def write(path: Path, media: Mapping[str, Media]) -> None:
    """Write ``media["video"]`` (F, H, W, 3), and ``media["audio"]`` (C, S) if its sample rate is known.

    The last row or column of an odd size is dropped: the codec stores colour for blocks of two by two pixels.
    """
    import av

    video, audio = media["video"], media.get("audio")
    rate = Fraction(video.rate or FPS).limit_denominator(1001)
    height, width = (size - size % 2 for size in video.data.shape[1:3])
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        sound = file.add_stream("aac", rate=int(audio.rate)) if audio is not None and audio.rate else None
        for frame in video.data[:, :height, :width]:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())
        if sound is not None:
            assert audio is not None
            _add_sound(file, sound, audio)


def _add_sound(file: Any, stream: Any, audio: Media) -> None:
    import av

    layout = "stereo" if len(audio.data) > 1 else "mono"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.data[:2], dtype=np.float32), "fltp", layout)
    frame.sample_rate = stream.rate
    file.mux(stream.encode(frame))
    file.mux(stream.encode())
