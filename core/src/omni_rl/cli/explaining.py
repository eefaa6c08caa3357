"""``omni-rl explain`` and ``omni-rl plugins``."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

from omni_rl._version import __version__
from omni_rl.plugins import listing
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.discovery import CORE, offers
from omni_rl.plugins.local import Registry
from omni_rl.plugins.manager import answers, build_manager
from omni_rl.plugins.runspec import build


def explained(architecture: str, algorithm: str) -> str:
    """A table: hook, the object that answers it, and its distribution.

    Raises:
        PluginError: no plugin offers the algorithm.
    """
    from omni_rl.run import core_hooks

    registry = Registry()
    layers = [Layer("core", core_hooks, f"{CORE} {__version__}")]
    known = {offer.key for offer in offers("models")}
    if architecture in known:
        found, source = registry.get("models", architecture)
        layers.append(Layer("model", build(found, {}), source))
    found, source = registry.get("algorithms", algorithm)
    layers.append(Layer("algorithm", build(found, {}), source))
    if f"{architecture}:{algorithm}" in {offer.key for offer in offers("pairs")}:
        found, source = registry.get("pairs", f"{architecture}:{algorithm}")
        layers.append(Layer("pair", build(found, {}), source))
    rows = answers(build_manager(layers))
    width, middle = max(len(r.hook) for r in rows), max(len(r.name) for r in rows)
    lines = [f"{r.hook:<{width}}  {r.name:<{middle}}  {r.source}{'  (wraps)' * (r.role == 'wraps')}" for r in rows]
    if architecture not in known:
        lines.append(f"\nno plugin for {architecture}: the universal adapter asks the pipeline itself")
    return "\n".join(lines)


def listed(*, as_json: bool, check: bool, seconds: float) -> tuple[str, bool]:
    """The listing as text or JSON, and whether every plugin that was looked at is sound."""
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
    """A terminal's own width; what goes into a file or a pipe is never cut."""
    return max(100, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000
