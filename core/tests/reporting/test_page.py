from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from omni_rl.errors import RunError
from omni_rl.reporting.curves import constants, curve, sections
from omni_rl.reporting.page import write_report


def points_of(svg: str, kind: str) -> list[tuple[float, float]]:
    elements = [e for e in ElementTree.fromstring(svg).iter() if e.get("class") == kind]
    assert len(elements) == 1, kind
    return [tuple(map(float, pair.split(","))) for pair in elements[0].get("points").split()]


def texts(svg: str, kind: str) -> list[str]:
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.get("class") == kind]


def test_a_curve_is_linear_in_both_axes():
    rows = [{"iteration": x, "y": float(y)} for x, y in ((1, 2), (2, 4), (4, 3), (11, 12))]
    points = points_of(curve("y", rows), "line")
    assert len(points) == 4
    for axis, values in ((0, [1, 2, 4, 11]), (1, [2, 4, 3, 12])):
        drawn = [point[axis] for point in points]
        slope, offset = np.polyfit(values, drawn, 1)
        assert np.allclose(np.polyval((slope, offset), values), drawn, atol=0.06)  # written with one decimal
        assert slope > 0 if axis == 0 else slope < 0  # SVG counts y downwards


def test_ticks_stand_at_the_values_they_name():
    svg = curve("y", [{"iteration": x, "y": 0.37 * x} for x in range(1, 10)])
    rules = [float(e.get("y1")) for e in ElementTree.fromstring(svg).iter() if e.get("class") == "rule"]
    labels = [float(text) for text in texts(svg, "tick")[: len(rules)]]
    points = points_of(svg, "line")
    slope, offset = np.polyfit([y for _, y in points], [0.37 * x for x in range(1, 10)], 1)
    assert 2 <= len(labels) <= 6
    assert np.allclose(np.polyval((slope, offset), rules), labels, atol=0.01)
    assert texts(svg, "tick")[-2:] == ["1", "9"]


@pytest.mark.parametrize("scale", [1e-12, 3e-4, 1.0, 7e3, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1.0, -5.0])
def test_ticks_differ_whatever_the_range(scale, offset):
    if scale < 1e-9 and offset:
        scale = 1e-9
    svg = curve("y", [{"iteration": x, "y": offset + scale * x} for x in range(1, 8)])
    labels = texts(svg, "tick")[:-2]
    assert 2 <= len(set(labels)) == len(labels) <= 6


def test_a_ratio_near_one_does_not_read_one():
    svg = curve("actor/ratio_mean", [{"iteration": x, "actor/ratio_mean": 1 + x * 1e-5} for x in range(1, 8)])
    assert float(texts(svg, "value")[0]) == pytest.approx(1.00007, abs=1e-6)


def test_missing_and_non_finite_values_leave_no_point():
    values = [1.0, math.nan, 2.0, math.inf, 3.0]
    rows = [{"iteration": x, "y": y} for x, y in enumerate(values, 1)] + [{"iteration": 6}]
    assert len(points_of(curve("y", rows), "line")) == 3
    assert texts(curve("y", [{"iteration": 1, "y": math.nan}]), "value") == ["no finite value"]


def test_one_row_and_a_constant_can_be_drawn():
    assert len(points_of(curve("y", [{"iteration": 3, "y": 0.0}]), "line")) == 1
    assert len(points_of(curve("y", [{"iteration": x, "y": -4.0} for x in (1, 2)]), "line")) == 2


def test_the_band_is_one_standard_error_on_either_side():
    rows = [{"iteration": x, "reward/mean": 0.1 * x, "reward/stderr": 0.05 * x} for x in range(1, 6)]
    svg = curve("reward/mean", rows)
    line, band = points_of(svg, "line"), points_of(svg, "band")
    per_unit = (line[0][1] - line[4][1]) / 0.4
    for index, (x, y) in enumerate(line):
        low, high = band[index], band[-1 - index]
        assert low[0] == high[0] == x
        assert (low[1] - y, y - high[1]) == pytest.approx((per_unit * rows[index]["reward/stderr"],) * 2, abs=0.11)
    assert sections(rows) == {"reward": ["reward/mean"]}


def test_many_points_get_a_running_mean_that_follows_a_line_without_lag():
    rows = [{"iteration": x, "y": 2.0 * x} for x in range(1, 101)]
    svg = curve("y", rows)
    assert points_of(svg, "line") == points_of(svg, "thin")
    rng = np.random.default_rng(0)
    noisy = curve("y", [{"iteration": x, "y": rng.normal()} for x in range(1, 101)])
    spread = {kind: np.std([y for _, y in points_of(noisy, kind)]) for kind in ("line", "thin")}
    assert spread["line"] < 0.5 * spread["thin"]


def test_sections_come_in_the_order_people_look():
    rewards = ["reward/ocr/mean", "val/reward/ocr/mean", "reward/mean", "val/reward/mean"]
    names = ["time/rollout_s", "policy_version", "actor/ratio_mean", *rewards]
    rows = [{"iteration": x, **dict.fromkeys(names, x), "actor/lr": 3e-4, "actor/kl": math.nan} for x in (1, 2)]
    assert sections(rows) == {
        "reward": ["val/reward/mean", "reward/mean", "val/reward/ocr/mean", "reward/ocr/mean"],
        "actor": ["actor/kl", "actor/ratio_mean"],
        "other": ["policy_version", "time/rollout_s"],
    }
    assert constants(rows) == {"actor/lr": 3e-4}


class Page(HTMLParser):
    """Reads a page back: its text, its elements, and whether every element is closed."""

    VOID = ("meta", "img", "line", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def report(path: Path, **changes: object) -> str:
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    values = {
        "title": "tiny <run>",
        "config_yaml": "model:\n  path: a & b\n",
        "metrics": [{"iteration": i, "reward/mean": i / 9, "reward/stderr": i / 90} for i in range(1, 9)],
        "before": [image] * 2,
        "after": [np.stack([image] * 3)] * 2,
        "captions": ['a sign that says "<b>"', "x"],
        "health": {
            "before": {"reward": 0.5, "reward_stderr": 0.04, "contrast": 0.2, "colour_entropy": 4.0},
            "after": {"reward": 0.75, "reward_stderr": 0.03, "contrast": 0.1, "colour_entropy": 4.4},
        },
        "notes": ["gate: <off>"],
    }
    write_report(path, **(values | changes))
    return path.read_text("utf-8")


def test_the_page_says_everything_and_is_well_formed(tmp_path):
    page = Page(report(tmp_path / "report.html"))
    assert page.open == []
    assert page.count("img") == 4
    assert page.count("svg") == 1
    for text in ("tiny <run>", "8 iterations", 'a sign that says "<b>"', "gate: <off>", "path: a & b"):
        assert text in page.text
    assert "reward 0.500 \u00b1 0.040 \u2192 0.750 \u00b1 0.030" in page.text
    assert page.text.count("-50%") == 1
    assert page.text.count("+10%") == 1
    assert [attributes.get("class") for tag, attributes in page.elements if tag == "td"].count("low") == 1


def test_many_notes_are_folded_and_the_last_iteration_counted(tmp_path):
    rows = [{"iteration": 0, "val/reward/mean": 0.5}, {"iteration": 7, "val/reward/mean": 0.5}]
    page = Page(report(tmp_path / "report.html", metrics=rows, notes=[f"note {i}" for i in range(17)]))
    assert page.open == []
    for text in ("7 iterations", "17 notes", "note 16", "Constant: val/reward/mean 0.5"):
        assert text in page.text
    assert page.count("svg") == 0


def test_the_page_asks_for_nothing_from_outside(tmp_path):
    source = report(tmp_path / "report.html")
    assert "<script" not in source
    assert re.findall(r"https?:|@import|url\(", source) == []
    links = [v for _, attributes in Page(source).elements for k, v in attributes.items() if k in ("src", "href")]
    assert all(link.startswith("data:image/") for link in links)
    assert "default-src 'none'" in source


def test_a_run_with_nothing_to_show_still_has_a_report(tmp_path):
    source = report(tmp_path / "report.html", metrics=[], before=[], after=[], captions=[], health={}, notes=[])
    page = Page(source)
    assert page.open == []
    assert page.count("svg") == page.count("img") == page.count("table") == 0


def test_a_report_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*nowhere/report\.html: No such file or directory"):
        report(tmp_path / "nowhere" / "report.html")


HOSTILE = "a\x00b\x1b[2J\ud800</title><script>alert(1)</script>'\" onload='x' \uffff &amp; ]]> --> \x85"


def test_hostile_text_stays_text_wherever_it_stands(tmp_path):
    rows = [{"iteration": i, HOSTILE: i / 9, f"{HOSTILE}/constant": 1.0} for i in (1, 2, 3)]
    health = {HOSTILE: {HOSTILE: 0.5, "reward": 1.0}, "after": {"reward": 2.0}}
    given = {"title": HOSTILE, "config_yaml": HOSTILE, "captions": [HOSTILE, "x"], "notes": [HOSTILE]}
    source = report(tmp_path / "report.html", metrics=rows, health=health, **given)
    page = Page(source)
    assert page.open == []
    assert page.count("script") == 0
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", source) == []
    assert page.text.count("alert(1)") >= 6
    for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL):
        ElementTree.fromstring(svg)


def long_metrics(rows: int, names: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, names))
    return [{"iteration": i + 1, **{f"actor/figure_{k}": v for k, v in enumerate(row)}} for i, row in enumerate(values)]


def test_the_size_does_not_grow_with_the_rows(tmp_path):
    sizes = [len(report(tmp_path / "report.html", metrics=long_metrics(rows, 5))) for rows in (1_000, 20_000)]
    assert abs(sizes[1] - sizes[0]) < 0.1 * sizes[0]


def test_thinning_keeps_the_extremes_the_ends_and_the_mean():
    values = [math.sin(x / 500) for x in range(1, 10_001)]
    values[4_321], values[7_777] = 9.0, -8.0
    svg = curve("y", [{"iteration": x, "y": y} for x, y in enumerate(values, 1)])
    corners = points_of(curve("y", [{"iteration": 1, "y": 9.0}, {"iteration": 10_000, "y": -8.0}]), "line")
    thin, line = points_of(svg, "thin"), points_of(svg, "line")
    assert (min(y for _, y in thin), max(y for _, y in thin)) == (corners[0][1], corners[1][1])
    assert (thin[0][0], thin[-1][0]) == (corners[0][0], corners[1][0])
    per_unit = (corners[1][1] - corners[0][1]) / 17
    wanted = corners[0][1] + (9 - math.sin(2_500 / 500)) * per_unit
    assert line[len(line) // 4][1] == pytest.approx(wanted, abs=per_unit * 0.3)


@pytest.mark.parametrize("odd", [1e308, -1e308, math.inf, math.nan, None, "text", [1]])
def test_values_that_cannot_be_drawn_leave_no_point(odd):
    rows = [{"iteration": 1, "y": 1.0}, {"iteration": 2, "y": odd}, {"iteration": 3, "y": 2.0}]
    assert len(points_of(curve("y", rows), "line")) == 2
    assert "nan" not in curve("y", rows)
    assert sections(rows) == {"other": ["y"]}
