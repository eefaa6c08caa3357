"""Shows the progress of a run: a live bar on a terminal, or else one line per iteration."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Live

from omni_rl.contracts.verdicts import Row, table
from omni_rl.errors import clipped

# (label, key of the metrics row, format). The formats are wide enough for usual values, so that lines stay aligned.
# A ratio has six decimals because relevant deviations start at the fifth.
FIGURES = (
    ("reward", "reward/mean", "{:5.3f}"),
    ("ratio", "actor/ratio_mean", "{:8.6f}"),
    ("clip", "actor/pg_clipfrac", "{:5.3f}"),
)
_RECENT = 10  # the remaining time is estimated from this many iterations


class Progress:
    """Live progress of a run of ``total`` iterations. As a context manager, it starts and stops the display.

    Args:
        total: iterations of the whole run.
        plain: print lines instead of a live bar; None: print lines unless standard output is a terminal.
        quiet: show nothing.
    """

    def __init__(self, total: int, plain: bool | None = None, quiet: bool = False) -> None:
        dull = not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
        lines = quiet or (dull if plain is None else plain)
        self._total = total
        self._view: _Lines | _Bar = _Lines(total, quiet) if lines else _Bar(total)
        self._durations: deque[float] = deque(maxlen=_RECENT)

    def iteration(self, row: Mapping[str, float]) -> None:
        """Show a completed iteration; ``row["iteration"]`` counts from 1. Figures that ``row`` lacks are not shown.

        The time and the remaining time come from ``row["time/iteration_s"]``, without validations and checkpoints.
        """
        done, seconds = int(row["iteration"]), row["time/iteration_s"]
        self._durations.append(seconds)
        left = (self._total - done) * sum(self._durations) / len(self._durations)
        shown = [f"{label} {form.format(row[key])}" for label, key, form in FIGURES if key in row]
        self._view.iteration(done, "  ".join(shown), seconds, clock(left))

    def validation(self, iteration: int, mean: float, stderr: float) -> None:
        """Show a validation after ``iteration`` iterations; ``stderr`` is NaN for a single sample."""
        if math.isnan(mean):
            return  # a note says why
        error = "" if math.isnan(stderr) else f" +- {stderr:.3f}"
        self.note(f"validation after {iteration}/{self._total}  reward {mean:.3f}{error}")

    def gate(self, rows: Sequence[Row]) -> None:
        """Show the gate's table of verdicts."""
        self._view.say(f"gate\n{table(rows)}")

    def note(self, text: str) -> None:
        """Show a text between the lines of iterations; what others raised is in it, so at most one screen of it."""
        self._view.say(clipped(text))

    def stop(self) -> None:
        """End the live display; a second call does nothing."""
        self._view.stop()

    def __enter__(self) -> Self:
        self._view.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def clock(seconds: float) -> str:
    """``0:41``, ``12:05``, ``3:00:07``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Lines:
    """One line per iteration, for log files and pipes."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._total = total
        self._quiet = quiet

    def start(self) -> None:
        """Nothing to prepare."""

    def iteration(self, done: int, figures: str, seconds: float, left: str) -> None:
        counter = f"iter {done:>{len(str(self._total))}}/{self._total}"
        self.say("  ".join(part for part in (counter, figures, f"{seconds:.1f} s", f"left {left}") if part))

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def stop(self) -> None:
        """Nothing to clear."""


class _Bar:
    """A live bar at the bottom of a terminal; other lines scroll above it."""

    def __init__(self, total: int) -> None:
        figures = TextColumn("{task.fields[figures]}", markup=False)
        counter = TextColumn("iter {task.completed}/{task.total}")
        left = TextColumn("[dim]{task.fields[seconds]}[/dim]left {task.fields[left]}")
        self._live = Live(counter, BarColumn(bar_width=16), figures, left, console=Console())
        self._task = self._live.add_task("", total=total, figures="", seconds="", left="-")

    def start(self) -> None:
        self._live.start()

    def iteration(self, done: int, figures: str, seconds: float, left: str) -> None:
        shown = " ".join(figures.split())
        self._live.update(self._task, completed=done, figures=shown, seconds=f"{seconds:.1f} s  ", left=left)

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        self._live.stop()
