"""Where a run runs.

A launcher is a callable, or a class with a pydantic ``Config`` whose instances are: it receives a function without
arguments, the run, and answers what the function answers. What it starts elsewhere rebuilds the run from its
``omni_rl.plugins.runspec.RunSpec``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def local(function: Callable[[], Result]) -> Result:
    """Run in this process."""
    return function()
