"""Where a run runs. A launcher is a callable that receives the run's function and calls it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def local(function: Callable[[], Result]) -> Result:
    """In this process."""
    return function()
