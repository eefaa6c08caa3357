"""A sound tracker passes the suite, and the suite fails one test for each way to break the contract."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest

from omni_rl.contracts.hooks import hookimpl
from omni_rl.errors import PluginError
from omni_rl_testing.tracker import TrackerContract, run_info


class Lines:
    """Keeps lines in memory; its state is how many there are."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.name = ""

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        self.name = self.name or run.directory.name

    @hookimpl
    def on_iteration_end(self, row: Any) -> None:
        self.lines.append(str(dict(row)))

    @hookimpl
    def on_validation(self, samples: Any, rewards: Any) -> None:
        self.lines.append(str(float(rewards.nanmean())))

    @hookimpl
    def on_run_end(self, error: BaseException | None) -> None:
        self.close(failed=error is not None)

    def state(self) -> dict[str, Any]:
        return {"name": self.name}

    def restore(self, state: Any) -> None:
        self.name = state.get("name", "")

    def close(self, failed: bool = False) -> None:
        pass


class TestLines(TrackerContract):
    """The inherited tests pass."""

    @pytest.fixture
    def make_tracker(self) -> type:
        return Lines


class NoClose(Lines):
    close = None  # type: ignore[assignment]


class Silent(Lines):
    on_run_start = on_iteration_end = on_validation = on_run_end = None  # type: ignore[assignment]


class Meddling(Lines):
    @hookimpl
    def tokenize(self, prompts: Any) -> Any:
        return prompts


class OnlyNumbers(Lines):
    @hookimpl
    def on_iteration_end(self, row: Any) -> None:
        assert all(math.isfinite(value) for value in row.values())


class AllDrawn(Lines):
    @hookimpl
    def on_validation(self, samples: Any, rewards: Any) -> None:
        self.lines += [str(sample.trajectory["media"]) for sample in samples]


class Changing(Lines):
    @hookimpl
    def on_validation(self, samples: Any, rewards: Any) -> None:
        rewards.nan_to_num_(0.0)


class Painting(Lines):
    @hookimpl
    def on_validation(self, samples: Any, rewards: Any) -> None:
        samples[0].trajectory["media", "image"][:] = 255


class PathState(Lines):
    def state(self) -> dict[str, Any]:
        return {"name": Path(self.name)}


class Forgetful(Lines):
    def restore(self, state: Any) -> None:
        self.name = "another"


class NeedsState(Lines):
    def restore(self, state: Any) -> None:
        self.name = state["name"]


class CloseOnce(Lines):
    def close(self, failed: bool = False) -> None:
        del self.lines


class Masking(Lines):
    @hookimpl
    def on_run_end(self, error: BaseException | None) -> None:
        if error is not None:
            raise ValueError("cannot send")


FAULTS: list[tuple[type[Lines], str]] = [
    (NoClose, "test_it_has_every_method"),
    (Silent, "test_it_only_observes"),
    (Meddling, "test_it_only_observes"),
    (OnlyNumbers, "test_it_follows_a_run"),
    (AllDrawn, "test_it_follows_a_run"),
    (Changing, "test_it_changes_nothing"),
    (Painting, "test_it_changes_nothing"),
    (PathState, "test_its_state_is_json"),
    (Forgetful, "test_a_resumed_run_goes_on"),
    (NeedsState, "test_a_checkpoint_without_its_state"),
    (CloseOnce, "test_closing_twice_is_closing"),
    (Masking, "test_a_run_that_fails"),
]


@pytest.mark.parametrize(("faulty", "test"), FAULTS, ids=[kind.__name__ for kind, _ in FAULTS])
def test_a_fault_is_found(faulty: type[Lines], test: str, tmp_path: Path) -> None:
    method = getattr(TrackerContract(), test)
    given = {"tracker": faulty(), "make_tracker": faulty, "info": run_info(tmp_path)}
    with pytest.raises((AssertionError, AttributeError, KeyError, PluginError, TypeError, ValueError)):
        method(**{name: given[name] for name in inspect.signature(method).parameters})


def test_every_test_finds_a_fault() -> None:
    assert {name for name in dir(TrackerContract) if name.startswith("test_")} == {test for _, test in FAULTS}
