"""kill -9 at any moment costs at most what came after the newest checkpoint, and the run goes on as if nothing was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab, complete, spread
from schedules import Schedule

Record = Callable[[str, object], None]
BY_TIME = ("train.checkpoint_every=0", "train.checkpoint_every_s=0.3")


def operations(lab: Lab, arguments: list[str], run: Path) -> int:
    """How many file operations a command makes."""
    file = lab.folder / "operations"
    file.unlink(missing_ok=True)
    ended = lab.call(arguments, ("runs.faults:count_operations", {"folder": str(run), "file": str(file)}))
    assert ended.code == 0, ended.said
    return len(file.read_text().splitlines())


def kill_at_operations(lab: Lab, schedule: Schedule, count: int, *overrides: str) -> None:
    """Kill new runs before file operations that are spread over a whole run."""
    counted = lab.new()
    total = operations(lab, lab.train(counted, *overrides), counted)
    for number in spread(count, total):
        run = lab.new()
        kill = {"folder": str(run), "number": number, "do": "SIGKILL"}
        killed = lab.call(lab.train(run, *overrides), ("runs.faults:at_operation", kill))
        if killed.code != -signal.SIGKILL:  # with checkpoints by time, not all runs have equally many operations
            assert (killed.code, bool(overrides)) == (0, True), killed.said
        reached, kept = complete(run) if run.exists() else (0, 0)
        wrong = lab.judged(run, killed, *overrides)
        if wrong is None and not overrides and reached - kept > 1:
            wrong = f"{reached - kept} iterations are lost"
        schedule.add(f"operation {number} of {total}", wrong, reached - kept)
        shutil.rmtree(run)


def kill_after_times(lab: Lab, schedule: Schedule, count: int, *overrides: str) -> None:
    """Kill new runs after times that are spread over a whole run."""
    lasts = undisturbed_seconds(lab, *overrides)
    for index in range(count):
        run, file = lab.new(), lab.folder / f"journal-{index}"
        file.unlink(missing_ok=True)
        child = lab.start(lab.train(run, *overrides), ("runs.faults:journal", {"file": str(file)}))
        child.over(lasts * (index + 0.5) / count)
        child.send(signal.SIGKILL)
        killed = child.wait()
        reached, kept = complete(run) if run.exists() else (0, 0)
        wrong = lab.judged(run, killed, *overrides) or too_much_lost(file, reached, kept, 0.3 if overrides else 0.0)
        schedule.add(f"moment {index} of {count}", wrong, reached - kept)
        shutil.rmtree(run, ignore_errors=True)


def undisturbed_seconds(lab: Lab, *overrides: str) -> float:
    began = time.monotonic()
    lab.call(lab.train(lab.new(), *overrides))
    return time.monotonic() - began


def too_much_lost(file: Path, reached: int, kept: int, every_s: float) -> str | None:
    """All lost iterations but the running one were complete less than ``every_s`` after the checkpoint."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    saved = max([at for at, what, number in lines if what in ("start", "checkpoint")], default=0.0)
    earlier = [at for at, what, number in lines if what == "iteration" and kept < number < reached]
    late = [at - saved for at in earlier if at - saved > every_s]
    return f"{reached - kept} iterations are lost, {max(late):.2f} s of work" if late else None


@pytest.mark.ci
@pytest.mark.xdist_group("attack")
def test_killed_at_some_file_operations(lab: Lab, record_property: Record) -> None:
    schedule = Schedule("kill -9 at a file operation, sample")
    kill_at_operations(lab, schedule, 4)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_at_file_operations(lab: Lab, record_property: Record) -> None:
    schedule = Schedule("kill -9 at a file operation, checkpoint_every: 1")
    kill_at_operations(lab, schedule, 70)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_at_file_operations_with_checkpoints_by_time(lab: Lab, record_property: Record) -> None:
    schedule = Schedule("kill -9 at a file operation, checkpoint_every_s")
    kill_at_operations(lab, schedule, 30, *BY_TIME)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_at_any_time(lab: Lab, record_property: Record) -> None:
    schedule = Schedule("kill -9 after a time, checkpoint_every: 1")
    kill_after_times(lab, schedule, 40)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_at_any_time_with_checkpoints_by_time(lab: Lab, record_property: Record) -> None:
    schedule = Schedule("kill -9 after a time, checkpoint_every_s")
    kill_after_times(lab, schedule, 40, *BY_TIME)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_while_it_resumes(lab: Lab, half: Path, record_property: Record) -> None:
    """Also a resumed run that is killed, from the cleaning at its start on, goes on."""
    schedule = Schedule("kill -9 of a resumed run")
    counted = lab.copy(half)
    total = operations(lab, ["resume", str(counted)], counted)
    for number in spread(30, total):
        run = lab.copy(half)
        kill = {"folder": str(run), "number": number, "do": "SIGKILL"}
        killed = lab.call(["resume", str(run)], ("runs.faults:at_operation", kill))
        assert killed.code == -signal.SIGKILL, killed.said
        reached, kept = complete(run)
        wrong = lab.judged(run, killed) or ("iteration 2 is lost" if kept < 2 else None)
        schedule.add(f"operation {number} of {total}", wrong, reached - kept)
        shutil.rmtree(run)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_in_fresh_interpreters(lab: Lab, command: str, record_property: Record) -> None:
    """A few cases without the warm process, killed once so many iterations are saved."""
    schedule = Schedule("kill -9 of a fresh interpreter")
    for number in range(1, 5):
        run = lab.new()
        environment = os.environ | lab.environment | {"OMP_NUM_THREADS": "1"}
        words = [command, *lab.train(run)]
        process = subprocess.Popen(words, cwd=lab.folder, env=environment, stdout=subprocess.DEVNULL)
        until(lambda run=run, number=number: (run / f"checkpoints/iteration-{number:06d}").exists())
        process.kill()
        process.wait()
        reached, kept = complete(run)
        done = subprocess.run([command, "resume", run], cwd=lab.folder, env=environment, capture_output=True, text=True)
        schedule.add(f"case {number}", done.stderr[-500:] if done.returncode else lab.difference(run), reached - kept)
    schedule.finish(record_property)


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)
