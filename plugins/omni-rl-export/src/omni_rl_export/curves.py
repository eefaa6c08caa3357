"""The report's curves as a file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omni_rl.reporting.curves import HEIGHT, WIDTH, MetricsRow, curve, sections
from omni_rl.reporting.escaping import html
from omni_rl.reporting.page import style
from omni_rl.storage.durable import write_atomic

_GAP = 12.0  # between the curves of a sheet


def write_curves(path: Path, metrics: Sequence[MetricsRow]) -> None:
    """Write the report's curves as an SVG file, atomically; ``metrics`` as for the report."""
    write_atomic(path, _sheet(metrics, style()).encode())


def _sheet(metrics: Sequence[MetricsRow], css: str) -> str:
    """The curves of rewards and actor as one SVG file with two curves per row; ``css`` is its style."""
    grouped = sections(metrics)
    names = [name for section in ("reward", "actor") for name in grouped.get(section, [])]
    width, height = 2 * WIDTH + _GAP, max(1, -(-len(names) // 2)) * (HEIGHT + _GAP) - _GAP
    cells = "".join(
        f'<svg x="{i % 2 * (WIDTH + _GAP):.0f}" y="{i // 2 * (HEIGHT + _GAP):.0f}" width="{WIDTH:.0f}" '
        f'height="{HEIGHT:.0f}" style="width: {WIDTH:.0f}px">{curve(name, metrics)}</svg>'
        for i, name in enumerate(names)
    )
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    own = f"width: {width:.0f}px; font-family: sans-serif"
    style = f"<style>{html(css)}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{own}">{style}{cells}</svg>\n'
