"""Gives memory that is free already back to the system, so that a run's resident memory shows what it really uses.

glibc keeps freed pages between those in use. Iterations and validations allocate in different sizes, so its heap would
grow by some megabytes in a hundred iterations although no object is left over.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def _trim() -> Any | None:
    """``malloc_trim`` of glibc; None where the C library is another one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def give_back() -> None:
    """Takes some milliseconds."""
    trim = _trim()
    if trim is not None:
        trim(0)
