"""Disks that are full, out of inodes or read-only end a run with a message, and cost what was not written."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Lab, complete, spread, wrong_words
from schedules import Schedule
from test_killed import operations

Record = Callable[[str, object], None]
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "ENFILE")


def fail_at(lab: Lab, schedule: Schedule, number: int, name: str, again: bool) -> None:
    """Let a file operation fail, once or from then on."""
    run = lab.new()
    harm = {"folder": str(run), "number": number, "do": name, "again": again}
    ended = lab.call(lab.train(run), ("runs.faults:at_operation", harm))
    reached, kept = complete(run) if run.exists() else (0, 0)
    wrong = wrong_words(ended) if ended.code else None
    if wrong is None and ended.code not in (0, 1, 2):
        wrong = f"exit code {ended.code}"
    if wrong is None and reached - kept > 1:
        wrong = f"{reached - kept} iterations are lost"
    case = f"{name} at operation {number}{' and later' if again else ''}"
    said = f" ({ended.said[-400:]})"
    judged = wrong or lab.judged(run, ended)
    schedule.add(case, None if judged is None else judged + said, reached - kept)
    shutil.rmtree(run, ignore_errors=True)


@pytest.mark.ci
@pytest.mark.xdist_group("attack")
def test_some_failing_operations(lab: Lab, record_property: Record) -> None:
    schedule = Schedule("failing file operations, sample")
    fail_at(lab, schedule, 60, "ENOSPC", True)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("again", [False, True])
def test_failing_operations(lab: Lab, record_property: Record, again: bool) -> None:
    schedule = Schedule("failing file operations")
    counted = lab.new()
    total = operations(lab, lab.train(counted), counted)
    for index, number in enumerate(spread(30, total)):
        fail_at(lab, schedule, number, ERRORS[index % len(ERRORS)], again)
    schedule.finish(record_property)


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory with limits at ``folder``; skips the test where this is not allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "attack", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_small_disks(lab: Lab, record_property: Record, half: Path) -> None:
    """When there is room again, the printed command goes on."""
    schedule = Schedule("full disks, no inodes")
    used = sum(file.stat().st_size for file in half.rglob("*") if file.is_file()) // 1024
    sizes = [f"size={used * part // 12}k" for part in range(1, 12)]
    inodes = [f"nr_inodes={number}" for number in (3, 5, 8, 11, 14, 17, 20, 24)]
    for options in (*sizes, *inodes):
        disk = lab.folder / f"run-disk-{options.replace('=', '-')}"
        with small_disk(disk, options):
            run = disk / "run"
            ended = lab.call(lab.train(run))
            reached, kept = complete(run) if run.exists() else (0, 0)
            wrong = wrong_words(ended) if ended.code else None
            remount(disk, "size=1g,nr_inodes=10000")
            judged = wrong or lab.judged(run, ended)
            schedule.add(options, None if judged is None else f"{judged} ({ended.said[-400:]})", reached - kept)
        disk.rmdir()
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_disk_that_becomes_read_only(lab: Lab, record_property: Record, half: Path) -> None:
    """As a file system after an error of its device."""
    schedule = Schedule("read-only folders")
    for moment in ("before", "during"):
        disk = lab.folder / f"run-read-only-{moment}"
        with small_disk(disk, "size=1g"):
            run = disk / "run"
            shutil.copytree(half, run)
            pipe = disk / "go"
            os.mkfifo(pipe)
            if moment == "before":
                remount(disk, "ro")
                ended = lab.call(["resume", str(run)])
            else:
                child = lab.start(["resume", str(run)], environment={"REWARD_FAULT": f"open({str(pipe)!r}).read()"})
                with pipe.open("wb"):  # opens when the reward reads
                    remount_when_possible(disk)
                ended = child.wait()
            wrong = wrong_words(ended) if ended.code else "it says nothing of the disk"
            remount(disk, "rw")
            for made in (pipe, disk / "filler"):
                made.unlink(missing_ok=True)
            schedule.add(moment, wrong or lab.judged(run, ended))
        disk.rmdir()
    schedule.finish(record_property)


def remount_when_possible(disk: Path) -> None:
    """A file that is open for writing, such as a lock, forbids to mount read-only; then make the disk full instead."""
    try:
        remount(disk, "ro")
    except subprocess.CalledProcessError:
        with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_limit_for_the_size_of_files(lab: Lab, record_property: Record, half: Path) -> None:
    """``ulimit -f``: long files cannot be written."""
    schedule = Schedule("limits for the size of files")
    largest = max(file.stat().st_size for file in half.rglob("*") if file.is_file())
    for part in range(1, 8):
        run = lab.new()
        ended = lab.call(lab.train(run), limits={"RLIMIT_FSIZE": largest * part // 8})
        wrong = wrong_words(ended) if ended.code else "it says nothing of the limit"
        judged = wrong or lab.judged(run, ended)
        schedule.add(f"{part}/8", None if judged is None else f"{judged} ({ended.said[-400:]})")
    schedule.finish(record_property)
