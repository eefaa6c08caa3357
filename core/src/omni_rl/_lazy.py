"""Packages that export names without importing what defines them, so that ``omni-rl --help`` imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def exporter(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` (PEP 562) for ``package``; ``modules`` names what each module exports."""
    home = {name: module for module, names in modules.items() for name in names}

    def attribute(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home[name]), name)

    return attribute
