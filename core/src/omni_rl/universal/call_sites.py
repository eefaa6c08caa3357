"""Which call of an encoder is which: with latents, a pipeline may leave out calls that it makes without."""

from __future__ import annotations

import inspect
import traceback
from collections import Counter

from diffusers import DiffusionPipeline

Call = tuple[str, tuple[int, ...], int]
"""An encoder, the lines of the pipeline's file that led to the call, and how many calls they have led to."""


class Calls:
    """The calls of encoders in one question to a pipeline."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._file = inspect.getfile(inspect.unwrap(type(pipe).__call__))
        self._made = Counter[tuple[str, tuple[int, ...]]]()

    def next(self, encoder: str) -> Call:
        """The one that is being made."""
        frames = (frame for frame, _ in traceback.walk_stack(None))
        site = tuple(frame.f_lineno for frame in frames if frame.f_code.co_filename == self._file)
        self._made[encoder, site] += 1
        return encoder, site, self._made[encoder, site]
