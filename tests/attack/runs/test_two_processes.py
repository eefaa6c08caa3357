"""Of two processes that resume one run, one is refused or waits for nothing, and the run is as with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab, wrong_words
from schedules import Schedule

Record = Callable[[str, object], None]


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_two_processes_resume_one_run(lab: Lab, record_property: Record, half: Path) -> None:
    """Started with growing distances, so that they meet at the start, in the loop, and at the end."""
    schedule = Schedule("two processes resume one run")
    for index in range(12):
        run = lab.copy(half)
        first = lab.start(["resume", str(run)])
        first.over(0.15 * index)
        second = lab.start(["resume", str(run)])
        ended = [first.wait(), second.wait()]
        codes = sorted(each.code for each in ended)
        wrong = (
            None if codes in ([0, 0], [0, 2]) else f"exit codes {codes}: {ended[0].said[-300:]} {ended[1].said[-300:]}"
        )
        refused = [each for each in ended if each.code == 2]
        if wrong is None and refused:
            wrong = wrong_words(refused[0])
            wrong = wrong or (None if "another process trains in" in refused[0].err else refused[0].err[-300:])
        schedule.add(f"distance {0.15 * index:.2f} s", wrong or lab.difference(run))
    schedule.finish(record_property)
