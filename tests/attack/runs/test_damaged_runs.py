"""A run whose files became others is refused, resumed rightly, or resumed with the difference printed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from damage import Damage, particular, to_every_file
from forked import Ended
from lab import Lab, wrong_words
from schedules import Schedule

Record = Callable[[str, object], None]
TOLD = "different from the checkpoint"


@pytest.fixture(scope="session")
def other(furnished: Lab) -> Path:
    """A run with another seed, as far as the half one."""
    run = furnished.folder / "other"
    ended = furnished.call(furnished.train(run, "seed=4", "train.iterations=2"))
    assert ended.code == 0, ended.said
    return run


def judge(lab: Lab, run: Path, ended: Ended) -> str | None:
    """What is wrong with the end of a resumed run."""
    if ended.code == 2:
        return wrong_words(ended)
    if ended.code != 0 or ended.timed_out:
        return f"exit code {ended.code}{', it hangs' if ended.timed_out else ''}: {ended.said[-700:]}"
    difference = lab.difference(run)
    if difference is None or TOLD in ended.out:
        return None
    return f"WRONG AND SILENT: {difference[:500]}"


def hashes(folder: Path) -> dict[str, str]:
    """The contents of a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def harm(lab: Lab, half: Path, schedule: Schedule, damages: Iterable[Damage]) -> None:
    """Resume a copy of the half-done run after each damage."""
    for damage in damages:
        run = lab.copy(half)
        path = (lab.folder if damage.shared else run) / damage.path
        if not damage.shared and not path.exists():
            continue
        with restored_inputs(lab, path) if damage.shared else contextlib.nullcontext():
            damage.act(path)
            outside = lab.folder / "outside"
            before = hashes(outside)
            ended = lab.call(["resume", str(run)])
            wrong = judge(lab, run, ended)
            if {name: now for name, now in hashes(outside).items() if name in before} != before and path.is_file():
                wrong = "it wrote through a link"
            if list(lab.folder.glob("unpickled")):
                wrong = "it unpickled"
        schedule.add(damage.name, wrong)
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(outside, ignore_errors=True)


@contextlib.contextmanager
def restored_inputs(lab: Lab, path: Path) -> Iterator[None]:
    """Afterwards, an input of the run is as before."""
    top = lab.folder / path.relative_to(lab.folder).parts[0]
    kept = lab.folder / "kept"
    shutil.copytree(top, kept) if top.is_dir() else shutil.copy2(top, kept)
    try:
        yield
    finally:
        if top.is_dir():
            shutil.rmtree(top)
        else:
            top.unlink(missing_ok=True)
        os.rename(kept, top)


@pytest.mark.ci
@pytest.mark.xdist_group("attack")
def test_some_damaged_files(lab: Lab, half: Path, other: Path, record_property: Record) -> None:
    schedule = Schedule("damaged runs, sample")
    every = [*to_every_file(), *particular(other)]
    harm(lab, half, schedule, every[::70])
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(4))
def test_damaged_files(lab: Lab, half: Path, record_property: Record, shard: int) -> None:
    schedule = Schedule("damaged files of a run")
    harm(lab, half, schedule, list(to_every_file())[shard::4])
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_other_contents(lab: Lab, half: Path, other: Path, record_property: Record) -> None:
    schedule = Schedule("files of other runs, edited files and inputs")
    harm(lab, half, schedule, particular(other))
    schedule.finish(record_property)
