"""Standard output that cannot end a run: a closed terminal, a full disk or a pipe without a reader lose only text."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Steady:
    """A text stream that drops what its target does not take; None as the target: it drops everything."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write if possible; returns the length of the text."""
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether the target is a terminal."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def settle(self) -> None:
        """Flush a last time. If the target does not take it, drop it, or else Python ends with code 120."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, cast(TextIO, self._stream).fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """A context in which writing to standard output and standard error never raises."""
    earlier = sys.stdout, sys.stderr
    steady = [Steady(stream) for stream in earlier]
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], tuple(steady))
    try:
        yield
    finally:
        for stream in steady:
            stream.settle()
        sys.stdout, sys.stderr = earlier


def open_standard_streams() -> None:
    """Open the descriptors 0, 1 and 2 if they are closed, or else a file of the run gets such a number, and what a
    library prints goes into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
