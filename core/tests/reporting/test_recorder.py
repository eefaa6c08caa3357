"""What an observer raises at the end never takes the place of the run's own error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from omni_rl.contracts.events import State
from omni_rl.reporting.recorder import Recorder
from omni_rl.storage.run_folder import RunDirectory


class Failing:
    def on_run_end(self, run, error):
        raise ValueError("cannot send\nmore")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def recorder(tmp_path: Path, notes: list[str]) -> Recorder:
    return Recorder(RunDirectory(tmp_path), SimpleNamespace(note=notes.append), Failing(), None, "ToyPipeline")


def test_after_an_error_it_is_a_note(recorder, notes):
    recorder.end(State(), RuntimeError("the reward is gone"))
    assert notes == ["a tracker or another observer failed at the end, too: ValueError: cannot send"]


def test_after_success_it_is_the_error(recorder):
    with pytest.raises(ValueError, match="cannot send"):
        recorder.end(State(), None)
