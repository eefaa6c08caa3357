"""A backend in another process, a source that samples ahead and a launcher elsewhere, through the unchanged loop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omni_rl import train
from omni_rl.contracts import Backend, Context, Launcher
from omni_rl.errors import DataError, RunError
from omni_rl.plugins.local import load_file
from omni_rl.run.start import check, resume
from omni_rl_testing.backend import BackendContract
from omni_rl_testing.launcher import LauncherContract
from omni_rl_testing.source import MakeSource, SourceContract

pytestmark = pytest.mark.ci
DOORS = Path(__file__).with_name("doors.py")
doors: Any = load_file(DOORS)


class TestElsewhere(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def link(cls) -> Iterator[Any]:
        """One process for all backends, because it takes seconds to start."""
        link = doors.Link()
        yield link
        link.close()

    @pytest.fixture
    def backend(self, link: Any) -> Callable[[Context], Backend]:
        return lambda context: doors.Elsewhere(context, link)


class TestAhead(SourceContract):
    @pytest.fixture
    def make_source(self) -> MakeSource:
        return lambda **given: doors.Ahead(given["sampled"])


class TestInAnotherProcess(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Launcher:
        return doors.in_another_process


@pytest.fixture
def docked(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe of these tests' runs, with the toy parts at hand."""
    recipe["plugins"] = [str(DOORS)]
    recipe["model"]["lora"] = {"rank": 2}
    return recipe


def test_a_backend_elsewhere_trains_as_the_one_here(
    docked: dict[str, Any], tmp_path: Path, figures: Callable[[Path], list[dict[str, float]]]
) -> None:
    """Its gate is green, each row judged or said not to apply; its figures are the local run's."""
    away = train(docked, ["train.backend=elsewhere", "gate=on"], tmp_path / "away")
    train(docked, [], tmp_path / "here")
    rows = {row.name: row for row in away.gate}
    assert {name for name, row in rows.items() if row.verdict == "fail"} == set()
    assert rows["gradient"].detail == "not applicable: the backend keeps its weights in another process"
    assert rows["weights"].verdict == rows["replay"].verdict == "ok"
    for one, other in zip(figures(tmp_path / "away"), figures(tmp_path / "here"), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_a_backend_elsewhere_resumes(docked: dict[str, Any], tmp_path: Path) -> None:
    train(docked, ["train.backend=elsewhere", "train.iterations=1"], tmp_path / "run")
    done = resume(tmp_path / "run", ["train.iterations=2"])
    assert [row["iteration"] for row in done.metrics] == [1, 2]


def test_a_source_may_be_ahead_as_far_as_it_says(docked: dict[str, Any], tmp_path: Path) -> None:
    run = train(docked, ["algorithm.name=eager", "train.iterations=3"], tmp_path / "run")
    assert [row["policy_version"] for row in run.metrics] == [1, 2, 3]
    kept = sorted((tmp_path / "run/checkpoints").glob("iteration-*/state.json"))[-1]
    assert json.loads(kept.read_text())["state"]["source"]["in_flight"] == [3]


def test_and_no_further(docked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"version 0 would train policy version 1; its source allows a difference of at most 0"
    ):
        train(docked, ["algorithm.name=understated", "train.iterations=3"], tmp_path / "run")


def test_a_launcher_runs_it_in_another_process(
    docked: dict[str, Any], tmp_path: Path, figures: Callable[[Path], list[dict[str, float]]]
) -> None:
    away = train(docked, ["launcher=another_process"], tmp_path / "away")
    train(docked, [], tmp_path / "here")
    assert figures(tmp_path / "away") == figures(tmp_path / "here")
    assert away.state.iteration == len(away.metrics)
    assert {row.name for row in away.gate if row.verdict == "fail"} == set()
    assert {row.verdict for row in check(docked, ["launcher=another_process"])} <= {"ok", "info"}


def test_an_error_there_is_the_same_error_here(docked: dict[str, Any], tmp_path: Path) -> None:
    prompts = tmp_path / "empty.txt"
    prompts.write_text(os.linesep)
    docked["data"]["path"] = str(prompts)
    with pytest.raises(DataError, match=r"empty\.txt"):
        train(docked, ["launcher=another_process"], tmp_path / "away")
