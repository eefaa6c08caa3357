from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from omni_rl_testing.engine import EngineContract
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import toy_model
from omni_rl_testing.trajectories import found
from pydantic import ValidationError

from {{ cookiecutter.module }} import ReplicaEngine


class TestReplicaEngine(EngineContract):
    """The inherited contract tests."""

    @pytest.fixture
    def engine(self) -> type[ReplicaEngine]:
        return ReplicaEngine


@pytest.fixture
def parts() -> Iterator[Parts]:
    parts = assemble(toy_model(), engine=ReplicaEngine, rollout={"steps": 4, "group_size": 2, "batch_size": 2})
    yield parts
    parts.engine.close()


def drawn(parts: Parts) -> torch.Tensor:
    """Final latents (N, C, H, W)."""
    return torch.stack([found(sample)["latents", "x", "final"] for sample in parts.draw(parts.requests())])


def test_an_update_reaches_samples_with_the_next_sync_and_not_before(parts: Parts) -> None:
    """The replica has its own weights; samples of an engine with the trainer's weights would change at once."""
    parts.sync(0)
    before = drawn(parts)
    parts.nudge()
    assert torch.equal(drawn(parts), before)
    parts.sync(1)
    assert not torch.equal(drawn(parts), before)


def test_samples_say_which_sync_they_follow(parts: Parts) -> None:
    parts.sync(5)
    assert [int(found(sample)["policy_version"]) for sample in parts.draw(parts.requests())] == [5] * 6


def test_batches_run_together(parts: Parts, count_calls: Callable[[str], list[int]]) -> None:
    """Six samples in batches of two, two batches at a time: four passes for four samples, four passes for the rest."""
    together = count_calls("denoise_step")
    drawn(parts)
    assert together == [2] * 4 + [1] * 4


@pytest.fixture
def count_calls(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[int]]:
    """``count_calls(hook)``: the number of states in each later call of the hook."""

    def watch(hook: str) -> list[int]:
        seen: list[int] = []
        answer = getattr(parts.hooks, hook)
        monkeypatch.setattr(parts.hooks, hook, lambda **kwargs: seen.append(len(kwargs["states"])) or answer(**kwargs))
        return seen

    return watch


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError):
        ReplicaEngine.Config(batches=0)
