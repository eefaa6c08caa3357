from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from omni_rl_testing.tracker import TrackerContract, follow, run_info

from {{ cookiecutter.module }} import CsvTracker


class TestCsvTracker(TrackerContract):
    """What every tracker must do; the tests are inherited."""

    @pytest.fixture
    def make_tracker(self) -> Callable[[], CsvTracker]:
        return lambda: CsvTracker(CsvTracker.Config())


def rows(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))


def test_every_metric_has_a_line(tmp_path: Path) -> None:
    follow(CsvTracker(CsvTracker.Config()), run_info(tmp_path))
    found = rows(tmp_path / "metrics.csv")
    assert ["0", "val/reward", "0.5"] in found
    assert ["2", "actor/kl", "nan"] in found


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    first = CsvTracker(CsvTracker.Config(file="a.csv"))
    follow(first, run_info(tmp_path))
    before = rows(tmp_path / "a.csv")
    again = CsvTracker(CsvTracker.Config(file="b.csv"))
    again.restore(first.state())
    follow(again, run_info(tmp_path))
    assert rows(tmp_path / "a.csv") == 2 * before
