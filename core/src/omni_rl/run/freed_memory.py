"""Gives memory that is no longer used back to the system, so that a run's resident memory shows what it really uses.

Two kinds would grow by some megabytes in hundreds of iterations. Objects in reference cycles wait for a collection of
all objects, which Python starts only when many of them are new. And glibc keeps freed pages between those in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from functools import cache
from typing import Any


@contextlib.contextmanager
def old_objects_kept() -> Iterator[None]:
    """A context whose collections look only at objects that were made in it: milliseconds instead of tenths."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def give_back() -> None:
    """Takes some milliseconds inside of :func:`old_objects_kept`."""
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any | None:
    """``malloc_trim`` of glibc; None where the C library is another one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
