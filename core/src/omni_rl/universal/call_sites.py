"""Identify encoder calls by call site; a pipeline given latents may skip some."""

from __future__ import annotations

import inspect
import traceback
from collections import Counter

from diffusers import DiffusionPipeline

CallSite = tuple[str, tuple[int, ...], int]
"""An encoder, the lines of the pipeline's file that led to the call, and how many earlier calls came from there."""


class CallSites:
    """Names the encoder calls of one run of a pipeline's ``__call__``, in the order in which they are made."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._file = inspect.getfile(inspect.unwrap(type(pipe).__call__))
        self._calls = Counter[tuple[str, tuple[int, ...]]]()

    def next(self, encoder: str) -> CallSite:
        """The site of the call that is being made, read off the stack."""
        frames = (frame for frame, _ in traceback.walk_stack(None))
        lines = tuple(frame.f_lineno for frame in frames if frame.f_code.co_filename == self._file)
        self._calls[encoder, lines] += 1
        return encoder, lines, self._calls[encoder, lines] - 1
