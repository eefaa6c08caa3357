"""The commands ``omni-rl explain`` and ``omni-rl plugins``."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

from omni_rl._version import __version__
from omni_rl.plugins import listing
from omni_rl.plugins.contract import Layer, LayerName
from omni_rl.plugins.discovery import CORE
from omni_rl.plugins.local import Registry
from omni_rl.plugins.manager import answers, build_manager
from omni_rl.plugins.runspec import build


def explained(architecture: str, algorithm: str) -> str:
    """A table with one line per hook: the function that answers it, and its distribution.

    Raises:
        PluginError: no plugin offers the algorithm.
    """
    from omni_rl.run import core_hooks

    registry = Registry()
    layers = [Layer("core", core_hooks, f"{CORE} {__version__}")]
    names: list[tuple[LayerName, str, str]] = [
        ("model", "models", architecture),
        ("algorithm", "algorithms", algorithm),
        ("pair", "pairs", f"{architecture}:{algorithm}"),
    ]
    for name, kind, key in names:
        if name == "algorithm" or key in registry.keys(kind):
            plugin, source = registry.get(kind, key)
            layers.append(Layer(name, build(plugin, {}), source))
    rows = answers(build_manager(layers))
    width, middle = max(len(r.hook) for r in rows), max(len(r.name) for r in rows)
    lines = [f"{r.hook:<{width}}  {r.name:<{middle}}  {r.source}{'  (wraps)' * (r.role == 'wraps')}" for r in rows]
    if architecture not in registry.keys("models"):
        lines.append(f"\nno model plugin for {architecture}: the universal adapter calls the pipeline itself")
    return "\n".join(lines)


def listed(*, as_json: bool, check: bool, seconds: float) -> tuple[str, bool]:
    """The list of plugins as text or JSON, and whether all of them work as far as they were checked."""
    rows = listing.rows()
    if check:
        rows = listing.check(rows, seconds)
    sound = all(row.status in ("installed", "works", "hidden") for row in rows)
    if as_json:
        return listing.to_json(rows), sound
    console = Console(width=_width())
    with console.capture() as captured:
        console.print(listing.table(rows))
    return "\n".join([captured.get().rstrip(), *listing.texts(rows)]), sound


def _width() -> int:
    """The width of the terminal; for a file or a pipe, a width at which nothing is cut."""
    return max(100, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000
