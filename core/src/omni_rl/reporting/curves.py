"""Draws metrics over iterations as inline SVG, without scripts, network or a plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np

from omni_rl.reporting.escaping import html

MetricsRow = dict[str, float]
Point = tuple[float, float]
Measured = tuple[float, float, float]
"""Iteration, value, standard error."""
ToSvg = Callable[[Point], str]
"""Maps a point of the data to SVG coordinates, as text: ``x,y``."""

WIDTH, HEIGHT = 320.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 26.0, 20.0
_SECTIONS = {"val": "reward", "reward": "reward", "actor": "actor"}  # part of a name before the first slash -> section
BINS = 200
"""A longer curve is thinned: its points are divided into this many bins, about as many as its panel has pixels."""

_LARGEST = 1e300  # larger values count as not finite: the arithmetic of axes would overflow
_HOVER = 100  # points of a curve that show their values under the mouse pointer, at most
_SMOOTH_FROM = 20  # with at least this many points, a running mean is drawn over the single values


def sections(metrics: Sequence[MetricsRow]) -> dict[str, list[str]]:
    """The metrics that vary, under ``reward``, ``actor`` and ``other``.

    Order: totals before their components, and validation before training.
    """
    names = set().union(*metrics) - {"iteration"}
    names -= {stderr_name(name) for name in names} | constants(metrics).keys()
    grouped: dict[str, list[str]] = {"reward": [], "actor": [], "other": []}
    for name in sorted(names, key=_rank):
        grouped[_SECTIONS.get(name.split("/")[0], "other")].append(name)
    return {section: members for section, members in grouped.items() if members}


def _rank(name: str) -> tuple[int, bool, str]:
    return name.removeprefix("val/").count("/"), not name.startswith("val/"), name


def constants(metrics: Sequence[MetricsRow]) -> dict[str, float]:
    """The metrics with the same finite value in every row, and that value."""
    first: dict[str, float] = {}
    varying = {"iteration"}
    for row in metrics:
        for name, value in row.items():
            if value != first.setdefault(name, value):
                varying.add(name)
    return {name: value for name, value in sorted(first.items()) if name not in varying and _is_number(value)}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) < _LARGEST


def stderr_name(name: str) -> str:
    """The name of a metric's standard error: ``reward/mean`` -> ``reward/stderr``, ``x`` -> ``x_stderr``."""
    return f"{name.removesuffix('mean')}stderr" if name.endswith("/mean") else f"{name}_stderr"


def curve(name: str, metrics: Sequence[MetricsRow]) -> str:
    """One metric as an ``<svg>``; rows without a finite value of it have no point.

    A long curve is thinned: a thin line through the lowest and the highest value of each bin, and over it the running
    mean of the bins' means. Its size does not grow with the number of rows.
    """
    found = _measured(name, metrics)
    if not found:
        return _frame(name, "no finite value", "")
    points, bins = [(x, y) for x, y, _ in found], _bins(found)
    means = [_mean(each) for each in bins]
    band = [(x, y - spread) for x, y, spread in means] + [(x, y + spread) for x, y, spread in reversed(means)]
    low, high = _range([y for _, y in points] + [y for _, y in band])
    first, last = metrics[0]["iteration"], max(metrics[-1]["iteration"], metrics[0]["iteration"] + 1)

    def to_svg(point: Point) -> str:
        x = _LEFT + (point[0] - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    body = _axes(low, high, first, last, to_svg)
    if any(spread for _, _, spread in means):
        body += f'<polygon class="band" points="{" ".join(map(to_svg, band))}"/>'
    smooth = _running_mean([(x, y) for x, y, _ in means])
    shown = points if len(bins) == len(points) else _outline(bins)
    body += f'<polyline class="{"thin" if smooth else "line"}" points="{" ".join(map(to_svg, shown))}"/>'
    body += f'<polyline class="line" points="{" ".join(map(to_svg, smooth))}"/>' if smooth else ""
    body += "".join(_dot(point, to_svg, visible=len(points) < _SMOOTH_FROM) for point in _spaced(points, _HOVER))
    return _frame(name, _label(points[-1][1], _step(low, high) / 100), body)


def _measured(name: str, metrics: Sequence[MetricsRow]) -> list[Measured]:
    error, found = stderr_name(name), []
    for row in metrics:
        value = row.get(name)
        if _is_number(value):
            spread = row.get(error, 0.0)
            found.append((row["iteration"], value, spread if _is_number(spread) else 0.0))
    return found


def _bins(found: Sequence[Measured]) -> list[np.ndarray]:
    """Each point alone (1, 3), or for a long curve :data:`BINS` runs of consecutive points, of nearly equal length."""
    return np.array_split(np.array(found, dtype=np.float64), len(found) if len(found) <= 2 * BINS else BINS)


def _mean(points: np.ndarray) -> Measured:
    x, y, spread = (points / len(points)).sum(axis=0).tolist()
    return x, y, spread


def _outline(bins: Sequence[np.ndarray]) -> list[Point]:
    """The lowest and the highest point of each bin in order, between the first and the last point of all."""
    chosen = [bins[0][0], bins[-1][-1]]
    for points in bins:
        chosen += [points[points[:, 1].argmin()], points[points[:, 1].argmax()]]
    return sorted({(x, y) for x, y, _ in np.stack(chosen).tolist()})


def _spaced(points: Sequence[Point], most: int) -> list[Point]:
    """At most ``most`` of the points, evenly spaced, the last among them."""
    every = -(-len(points) // most)
    return list(points[::-1][::every][::-1])


def _frame(name: str, value: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{html(name)}">'
        f'<text class="name" x="{_LEFT:.0f}" y="14">{html(name)}</text>'
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
