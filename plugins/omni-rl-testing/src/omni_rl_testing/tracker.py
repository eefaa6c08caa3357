"""The contract of experiment trackers, as tests. See :class:`TrackerContract`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from omni_rl.contracts.events import RunInfo, State
from omni_rl.contracts.interfaces import Tracker
from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.contracts.types import NOT_FINITE, Sample
from omni_rl.plugins.checks import check_tracker, implementations
from omni_rl.plugins.contract import Layer
from omni_rl.plugins.manager import Hooks, build_manager
from omni_rl.schedulers.types import NoiseKey


class TrackerContract:
    """What a run relies on. Inherit it and supply one fixture.

    ``make_tracker``: a function that answers a new tracker with the same options, as a resumed run makes one.
    """

    @pytest.fixture
    def tracker(self, make_tracker: Callable[[], Tracker]) -> Iterator[Tracker]:
        """One tracker, closed after the test."""
        tracker = make_tracker()
        yield tracker
        if callable(getattr(tracker, "close", None)):
            tracker.close()

    @pytest.fixture
    def info(self, tmp_path: Path) -> RunInfo:
        """A run in an empty folder."""
        return run_info(tmp_path)

    def test_it_has_every_method(self, tracker: Tracker) -> None:
        """A run calls ``state``, ``restore`` and ``close`` on every tracker.

        Mend the class: omni_rl_trackers.base.Tracker is a base with all of them.
        """
        check_tracker(tracker, type(tracker).__name__)

    def test_it_only_observes(self, tracker: Tracker) -> None:
        """Hooks ``on_*``, at least one of them: a tracker without hooks is told nothing.

        Mend the class: put ``@omni_rl.hookimpl`` above its hooks, and remove hooks that change a run.
        """
        found = implementations(Layer("observer", tracker, type(tracker).__name__))
        assert found, "it implements none of the hooks on_*"

    def test_it_follows_a_run(self, tracker: Tracker, info: RunInfo) -> None:
        """Start, metrics, a validation, a checkpoint, the end; values that are no numbers, samples without pictures.

        Mend the hook that raises: metrics may be NaN or infinite, and a sample may have failed.
        """
        follow(tracker, info)

    def test_it_changes_nothing(self, tracker: Tracker, info: RunInfo) -> None:
        """Metrics, rewards and pictures belong to the run.

        Mend the hook: copy what you change.
        """
        rewards, samples = torch.tensor([0.5, math.nan]), drawn()
        kept = rewards.clone(), samples[0].trajectory.clone() if samples[0].trajectory is not None else None
        follow(tracker, info, samples, rewards)
        assert torch.equal(rewards.nan_to_num(7), kept[0].nan_to_num(7))
        assert samples[0].trajectory is not None
        assert bool((samples[0].trajectory == kept[1]).all())

    def test_its_state_is_json(self, tracker: Tracker, info: RunInfo) -> None:
        """Checkpoints hold JSON.

        Mend ``state``: texts, numbers, lists and mappings of them.
        """
        for state in (tracker.state(), started(tracker, info).state()):
            assert isinstance(state, dict)
            assert json.loads(json.dumps(state)) == state

    def test_a_resumed_run_goes_on(self, tracker: Tracker, make_tracker: Callable[[], Tracker], info: RunInfo) -> None:
        """A new tracker with the state of the old one keeps that state.

        Mend ``restore``: take back what ``state`` returned.
        """
        state = json.loads(json.dumps(started(tracker, info).state()))
        tracker.close()
        again = make_tracker()
        again.restore(state)
        assert started(again, info).state() == state
        again.close()

    def test_a_checkpoint_without_its_state(self, tracker: Tracker, info: RunInfo) -> None:
        """A tracker may be added to a run that is resumed: ``restore`` then receives ``{}``.

        Mend ``restore``: start a new log.
        """
        tracker.restore({})
        follow(tracker, info)

    def test_closing_twice_is_closing(self, tracker: Tracker, info: RunInfo) -> None:
        """A run closes its trackers on every way out, before the start and after the end, too.

        Mend ``close``: send what is outstanding, and do nothing if nothing is open.
        """
        tracker.close()
        started(tracker, info)
        tracker.close()
        tracker.close()

    def test_a_run_that_fails(self, tracker: Tracker, info: RunInfo) -> None:
        """The user must see the run's error, not one of the tracker.

        Mend ``on_run_end`` and ``close``: they are called with a run that ended in an error, and do not raise.
        """
        hooks = hooks_of(tracker)
        hooks.on_run_start(run=info)
        hooks.on_run_end(run=info, error=RuntimeError("the reward is gone"))
        tracker.close(failed=True)


def hooks_of(tracker: Tracker) -> Hooks:
    """The hooks of a run whose only plugin is the tracker."""
    return Hooks(build_manager([Layer("observer", tracker, type(tracker).__name__)]))


def started(tracker: Tracker, info: RunInfo) -> Tracker:
    """The tracker, told that the run begins."""
    hooks_of(tracker).on_run_start(run=info)
    return tracker


def follow(
    tracker: Tracker, info: RunInfo, samples: list[Sample] | None = None, rewards: torch.Tensor | None = None
) -> None:
    """Tell the tracker of a whole run of two iterations."""
    hooks, samples = hooks_of(tracker), drawn() if samples is None else samples
    rewards = torch.tensor([0.5, math.nan]) if rewards is None else rewards
    hooks.on_run_start(run=info)
    hooks.on_validation(run=info, iteration=0, samples=samples, rewards=rewards)
    for iteration in (1, 2):
        row = {"iteration": iteration, "reward/mean": 0.5, "actor/kl": math.nan, "actor/ratio_max": math.inf}
        hooks.on_iteration_end(run=info, row=MappingProxyType(row))
    hooks.on_checkpoint(run=info, path=str(info.directory / "checkpoints" / "iteration-000002"))
    hooks.on_run_end(run=info, error=None)


def run_info(folder: Path) -> RunInfo:
    """A run of the toy in ``folder``."""
    given: dict[str, Any] = {
        "model": {"path": "under-test"},
        "algorithm": {"name": "under-test"},
        "reward": "under-test",
        "data": {"path": "under-test"},
        "rollout": {"steps": 4, "prompts": 1, "group_size": 2},
    }
    return RunInfo(folder, Config.model_validate(given), "ToyPipeline", State())


def drawn() -> list[Sample]:
    """A sample with a picture, and one that the engine failed to draw."""
    key = NoiseKey(run_seed=0, purpose="validation", iteration=0, group=0, sample=0)
    request = Request(sample_id=0, uid=0, prompt="a sign", key=key, initial_key=key, steps=4)
    media = TensorDict({"image": torch.zeros(4, 8, 3, dtype=torch.uint8)}, batch_size=[])
    return [Sample(request, TensorDict({"media": media}, batch_size=[])), Sample(request, error=NOT_FINITE)]
