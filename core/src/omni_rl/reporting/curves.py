"""Curves over iterations as inline SVG: no script, no network, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

Row = dict[str, float]
Point = tuple[float, float]
Place = Callable[[Point], str]
"""Where a point of the data stands in the picture: ``x,y``."""

_WIDTH, _HEIGHT = 320.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 26.0, 20.0
_SECTIONS = {"val": "reward", "reward": "reward", "actor": "actor"}  # by the part of a name before the first slash
_GAP = 12.0  # between the curves of a sheet
_SMOOTH_FROM = 20  # points; from here on a running mean is drawn over the single values


def sections(metrics: Sequence[Row]) -> dict[str, list[str]]:
    """What varies and is drawn, under ``reward``, ``actor`` and ``other``; totals before parts, held-out ones first."""
    names = {name for row in metrics for name in row if name != "iteration"}
    names -= {stderr_name(name) for name in names} | constants(metrics).keys()
    found: dict[str, list[str]] = {"reward": [], "actor": [], "other": []}
    for name in sorted(names, key=_rank):
        found[_SECTIONS.get(name.split("/")[0], "other")].append(name)
    return {section: members for section, members in found.items() if members}


def _rank(name: str) -> tuple[int, bool, str]:
    return name.removeprefix("val/").count("/"), not name.startswith("val/"), name


def sheet(metrics: Sequence[Row], style: str) -> str:
    """The curves of rewards and actor, two a row, as an SVG file of its own; ``style`` is its CSS."""
    found = sections(metrics)
    names = [name for section in ("reward", "actor") for name in found.get(section, [])]
    width, height = 2 * _WIDTH + _GAP, max(1, -(-len(names) // 2)) * (_HEIGHT + _GAP) - _GAP
    cells = "".join(
        f'<svg x="{i % 2 * (_WIDTH + _GAP):.0f}" y="{i // 2 * (_HEIGHT + _GAP):.0f}" width="{_WIDTH:.0f}" '
        f'height="{_HEIGHT:.0f}" style="width: {_WIDTH:.0f}px">{curve(name, metrics)}</svg>'
        for i, name in enumerate(names)
    )
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    own = f"width: {width:.0f}px; font-family: sans-serif"
    css = f"<style>{escape(style, quote=False)}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{own}">{css}{cells}</svg>\n'


def constants(metrics: Sequence[Row]) -> dict[str, float]:
    """Metrics that have one finite value throughout, and that value."""
    seen: dict[str, set[float]] = {}
    for row in metrics:
        for name, value in row.items():
            seen.setdefault(name, set()).add(value)
    single = {name: next(iter(values)) for name, values in seen.items() if len(values) == 1 and name != "iteration"}
    return {name: value for name, value in sorted(single.items()) if math.isfinite(value)}


def stderr_name(name: str) -> str:
    """Where the standard error of metric ``name`` is: ``reward/mean`` -> ``reward/stderr``, ``x`` -> ``x_stderr``."""
    return f"{name.removesuffix('mean')}stderr" if name.endswith("/mean") else f"{name}_stderr"


def curve(name: str, metrics: Sequence[Row]) -> str:
    """One metric as an ``<svg>``; rows that lack it or where it is not finite leave no point."""
    points = [(row["iteration"], row[name]) for row in metrics if math.isfinite(row.get(name, math.nan))]
    if not points:
        return _frame(name, "no finite value", "")
    spread = {row["iteration"]: row.get(stderr_name(name), 0.0) for row in metrics}
    spread = {x: error if math.isfinite(error) else 0.0 for x, error in spread.items()}
    band = [(x, y - spread[x]) for x, y in points] + [(x, y + spread[x]) for x, y in reversed(points)]
    low, high = _range([y for _, y in band])
    first, last = metrics[0]["iteration"], max(metrics[-1]["iteration"], metrics[0]["iteration"] + 1)

    def place(point: Point) -> str:
        x = _LEFT + (point[0] - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (point[1] - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    body = _axes(low, high, first, last, place)
    if any(spread.values()):
        body += f'<polygon class="band" points="{" ".join(map(place, band))}"/>'
    smooth = _running_mean(points)
    body += f'<polyline class="{"thin" if smooth else "line"}" points="{" ".join(map(place, points))}"/>'
    body += f'<polyline class="line" points="{" ".join(map(place, smooth))}"/>' if smooth else ""
    body += "".join(_dot(point, place, visible=len(points) < _SMOOTH_FROM) for point in points)
    return _frame(name, _label(points[-1][1], _step(low, high) / 100), body)


def _frame(name: str, value: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(name)}">'
        f'<text class="name" x="{_LEFT:.0f}" y="14">{escape(name)}</text>'
        f'<text class="value" x="{_WIDTH - _RIGHT:.0f}" y="14" text-anchor="end">{value}</text>{body}</svg>'
    )


def _axes(low: float, high: float, first: float, last: float, place: Place) -> str:
    parts = []
    step = _step(low, high)
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = place((first, index * step)).split(",")[1]
        label = _label(index * step, step)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{float(y) + 3.5:.1f}" text-anchor="end">{label}</text>')
    for x, anchor in ((first, "start"), (last, "end")):
        left = place((x, low)).split(",")[0]
        parts.append(f'<text class="tick" x="{left}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{x:.0f}</text>')
    return "".join(parts)


def _dot(point: Point, place: Place, visible: bool) -> str:
    """A point that says its values when the mouse rests on it."""
    x, y = place(point).split(",")
    kind = "dot" if visible else "dot hidden"
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.2"><title>{point[0]:.0f}: {point[1]:.6g}</title></circle>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits of the axis; a constant gets room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _step(low: float, high: float) -> float:
    """The round distance between ticks that puts two to six of them between ``low`` and ``high``."""
    most = (high - low) / 2.5
    unit = 10.0 ** math.floor(math.log10(most))
    return max(unit * factor for factor in (1, 2, 5) if unit * factor <= most)


def _label(value: float, step: float) -> str:
    """``value`` with as many digits as tell it from ``value + step``: a ratio of 1.0002 must not read 1."""
    if value == 0:
        return "0"
    order = math.floor(math.log10(step))
    if abs(value) >= 1e5 or (abs(value) < 0.01 and step < 1e-3):
        digits = max(0, math.floor(math.log10(abs(value))) - order)
        return f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(0, -order)}f}"


def _running_mean(points: Sequence[Point]) -> list[Point]:
    """Centred mean over a tenth of the points, narrower towards the ends; empty when there are too few to need it."""
    count = len(points)
    if count < _SMOOTH_FROM:
        return []
    reach = [min(index, count - 1 - index, max(2, count // 20)) for index in range(count)]
    windows = [points[index - r : index + r + 1] for index, r in enumerate(reach)]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]
