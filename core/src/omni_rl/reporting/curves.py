"""Draws metrics over iterations as inline SVG, without scripts, network or a plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

MetricsRow = dict[str, float]
Point = tuple[float, float]
ToSvg = Callable[[Point], str]
"""Maps a point of the data to SVG coordinates, as text: ``x,y``."""

WIDTH, HEIGHT = 320.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 26.0, 20.0
_SECTIONS = {"val": "reward", "reward": "reward", "actor": "actor"}  # part of a name before the first slash -> section
_SMOOTH_FROM = 20  # with at least this many points, a running mean is drawn over the single values


def sections(metrics: Sequence[MetricsRow]) -> dict[str, list[str]]:
    """The metrics that vary, under ``reward``, ``actor`` and ``other``.

    Order: totals before their components, and validation before training.
    """
    names = {name for row in metrics for name in row if name != "iteration"}
    names -= {stderr_name(name) for name in names} | constants(metrics).keys()
    grouped: dict[str, list[str]] = {"reward": [], "actor": [], "other": []}
    for name in sorted(names, key=_rank):
        grouped[_SECTIONS.get(name.split("/")[0], "other")].append(name)
    return {section: members for section, members in grouped.items() if members}


def _rank(name: str) -> tuple[int, bool, str]:
    return name.removeprefix("val/").count("/"), not name.startswith("val/"), name


def constants(metrics: Sequence[MetricsRow]) -> dict[str, float]:
    """The metrics with the same finite value in every row, and that value."""
    seen: dict[str, set[float]] = {}
    for row in metrics:
        for name, value in row.items():
            seen.setdefault(name, set()).add(value)
    single = {name: next(iter(values)) for name, values in seen.items() if len(values) == 1 and name != "iteration"}
    return {name: value for name, value in sorted(single.items()) if math.isfinite(value)}


def stderr_name(name: str) -> str:
    """The name of a metric's standard error: ``reward/mean`` -> ``reward/stderr``, ``x`` -> ``x_stderr``."""
    return f"{name.removesuffix('mean')}stderr" if name.endswith("/mean") else f"{name}_stderr"


def curve(name: str, metrics: Sequence[MetricsRow]) -> str:
    """One metric as an ``<svg>``; rows without a finite value of it have no point."""
    points = [(row["iteration"], row[name]) for row in metrics if math.isfinite(row.get(name, math.nan))]
    if not points:
        return _frame(name, "no finite value", "")
    spread = {row["iteration"]: row.get(stderr_name(name), 0.0) for row in metrics}
    spread = {x: error if math.isfinite(error) else 0.0 for x, error in spread.items()}
    band = [(x, y - spread[x]) for x, y in points] + [(x, y + spread[x]) for x, y in reversed(points)]
    low, high = _range([y for _, y in band])
    first, last = metrics[0]["iteration"], max(metrics[-1]["iteration"], metrics[0]["iteration"] + 1)

    def to_svg(point: Point) -> str:
        x = _LEFT + (point[0] - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    body = _axes(low, high, first, last, to_svg)
    if any(spread.values()):
        body += f'<polygon class="band" points="{" ".join(map(to_svg, band))}"/>'
    smooth = _running_mean(points)
    body += f'<polyline class="{"thin" if smooth else "line"}" points="{" ".join(map(to_svg, points))}"/>'
    body += f'<polyline class="line" points="{" ".join(map(to_svg, smooth))}"/>' if smooth else ""
    body += "".join(_dot(point, to_svg, visible=len(points) < _SMOOTH_FROM) for point in points)
    return _frame(name, _label(points[-1][1], _step(low, high) / 100), body)


def _frame(name: str, value: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(name)}">'
        f'<text class="name" x="{_LEFT:.0f}" y="14">{escape(name)}</text>'
        f'<text class="value" x="{WIDTH - _RIGHT:.0f}" y="14" text-anchor="end">{value}</text>{body}</svg>'
    )


def _axes(low: float, high: float, first: float, last: float, to_svg: ToSvg) -> str:
    parts = []
    step = _step(low, high)
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = to_svg((first, index * step)).split(",")[1]
        label = _label(index * step, step)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{float(y) + 3.5:.1f}" text-anchor="end">{label}</text>')
    for x, anchor in ((first, "start"), (last, "end")):
        left = to_svg((x, low)).split(",")[0]
        parts.append(f'<text class="tick" x="{left}" y="{HEIGHT - 5}" text-anchor="{anchor}">{x:.0f}</text>')
    return "".join(parts)


def _dot(point: Point, to_svg: ToSvg, visible: bool) -> str:
    """A point that shows its values under the mouse pointer."""
    x, y = to_svg(point).split(",")
    kind = "dot" if visible else "dot hidden"
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.2"><title>{point[0]:.0f}: {point[1]:.6g}</title></circle>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits of the axis, with a margin on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _step(low: float, high: float) -> float:
    """A round distance between ticks, so that two to six ticks lie between ``low`` and ``high``."""
    most = (high - low) / 2.5
    unit = 10.0 ** math.floor(math.log10(most))
    return max(unit * factor for factor in (1, 2, 5) if unit * factor <= most)


def _label(value: float, step: float) -> str:
    """``value`` with enough digits to differ from ``value + step``: a ratio of 1.0002 must not be shown as 1."""
    if value == 0:
        return "0"
    order = math.floor(math.log10(step))
    if abs(value) >= 1e5 or (abs(value) < 0.01 and step < 1e-3):
        digits = max(0, math.floor(math.log10(abs(value))) - order)
        return f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(0, -order)}f}"


def _running_mean(points: Sequence[Point]) -> list[Point]:
    """Centred mean over a tenth of the points, over fewer near the ends; empty if there are only a few points."""
    count = len(points)
    if count < _SMOOTH_FROM:
        return []
    reach = [min(index, count - 1 - index, max(2, count // 20)) for index in range(count)]
    windows = [points[index - r : index + r + 1] for index, r in enumerate(reach)]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]
