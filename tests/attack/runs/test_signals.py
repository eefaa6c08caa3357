"""Signals, closed terminals and dead outputs end a run after it saved, or do not end it at all."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
from collections.abc import Callable

import pytest
from forked import Child
from lab import Lab, complete
from schedules import Schedule

Record = Callable[[str, object], None]
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
MOMENTS = [
    ("gate", 1),
    ("beginning", 1),
    ("validation", 1),
    ("rollout", 1),
    ("rollout", 3),
    ("reward", 3),
    ("advantages", 2),
    ("update", 1),
    ("update", 3),
    ("sync", 4),
    ("validation", 2),
    ("pictures", 2),
    ("metrics", 3),
    ("checkpoint", 2),
    ("rename", 3),
    ("report", 1),
]
"""Steps of a run, and which occurrence of each."""

BEFORE_THE_LOOP = ("gate", "beginning")


def send_at(lab: Lab, schedule: Schedule, step: str, number: int, name: str) -> None:
    """Send a signal at a step; the run saves everything that is complete, and says how to go on."""
    run, wanted = lab.new(), getattr(signal, name)
    harm = {"step": step, "number": number, "do": name}
    gate = "gate=warn" if step == "gate" else "gate=off"
    ended = lab.call(lab.train(run, gate), ("runs.faults:at_step", harm))
    reached, kept = complete(run) if run.exists() else (0, 0)
    wrong = None
    if reached != kept:
        wrong = f"{reached - kept} complete iterations are lost"
    elif "Traceback" in ended.said:
        wrong = f"a traceback: {ended.said[-500:]}"
    elif ended.code not in (128 + wanted, -wanted):
        wrong = f"exit code {ended.code}: {ended.said[-300:]}"
    elif step not in (*BEFORE_THE_LOOP, "report") and f"omni-rl resume {run}" not in ended.said:
        wrong = f"it names no command that goes on: {ended.said[-300:]}"
    schedule.add(f"{name} at {step} {number}", wrong or lab.judged(run, ended, gate), reached - kept)
    shutil.rmtree(run, ignore_errors=True)


@pytest.mark.ci
@pytest.mark.xdist_group("attack")
def test_some_signals(lab: Lab, record_property: Record) -> None:
    schedule = Schedule("signals, sample")
    send_at(lab, schedule, "reward", 3, "SIGTERM")
    send_at(lab, schedule, "update", 2, "SIGHUP")
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_signals(lab: Lab, record_property: Record, name: str) -> None:
    schedule = Schedule("signals at every step")
    for step, number in MOMENTS:
        send_at(lab, schedule, step, number, name)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_a_second_signal(lab: Lab, record_property: Record, second: str) -> None:
    """A second Ctrl-C ends at once; another second signal changes nothing. Both leave a run that goes on."""
    schedule = Schedule("two signals")
    for step in ("update", "checkpoint", "validation", "rename", "metrics"):
        run = lab.new()
        first = {"step": step, "number": 2, "do": "SIGINT"}
        again = {"step": "metrics" if step == "update" else step, "number": 2, "do": second}
        ended = lab.call(lab.train(run), ("runs.faults:at_step", first), ("runs.faults:at_step", again))
        reached, kept = complete(run)
        wrong = "a traceback" if "Traceback" in ended.said else None
        schedule.add(f"{second} after SIGINT at {step}", wrong or lab.judged(run, ended), reached - kept)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_closed_terminal(lab: Lab, record_property: Record) -> None:
    """SIGHUP arrives, and standard output does not exist any more."""
    schedule = Schedule("closed terminal")
    for share in (0.3, 0.45, 0.6, 0.75, 0.9):
        run = lab.new()
        master, slave = pty.openpty()
        child = lab.start(lab.train(run), ("runs.faults:terminal", {"name": os.ttyname(slave)}), writable=["/dev/pts"])
        until_output(child, master, share)
        os.close(slave)  # open until now: without it, reading fails while the run has not opened it yet
        os.close(master)
        ended = child.wait()
        reached, kept = complete(run) if run.exists() else (0, 0)
        wrong = None if ended.code in (0, 128 + 1, -1) else f"exit code {ended.code}: {ended.said[-300:]}"
        wrong = wrong or (f"{reached - kept} iterations are lost" if reached != kept else None)
        schedule.add(f"after {share:.0%} of the output", wrong or lab.judged(run, ended), reached - kept)
    schedule.finish(record_property)


def until_output(child: Child, master: int, share: float) -> None:
    """Read a terminal until a share of a run's output, of about nine lines, has arrived, or the run has ended."""
    seen = b""
    while seen.count(b"\n") < 9 * share and not child.over(0):
        if select.select([master], [], [], 0.1)[0]:
            seen += os.read(master, 4096)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["closed", "full", "broken"])
@pytest.mark.parametrize("command", ["train", "resume"])
def test_dead_output(lab: Lab, record_property: Record, half: object, kind: str, command: str) -> None:
    """Only text is lost."""
    schedule = Schedule("dead standard output and error")
    run = lab.new() if command == "train" else lab.copy(half)
    arguments = lab.train(run) if command == "train" else ["resume", str(run)]
    ended = lab.call(arguments, ("runs.faults:output", {"kind": kind}))
    wrong = f"exit code {ended.code}" if ended.code else lab.difference(run)
    schedule.add(f"{command} with {kind} output", wrong)
    schedule.finish(record_property)
