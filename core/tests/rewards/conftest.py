"""Samples as an engine returns them, and a runner that is closed after the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from tensordict import TensorDict

from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample
from omni_rl.rewards.runner import RewardRunner, RewardSpec, Scored
from omni_rl.schedulers.randomness import randn, seed_of
from omni_rl.schedulers.types import NoiseKey

Draw = Callable[..., list[Sample]]


def _request(uid: int, index: int, prompt: str) -> Request:
    key = NoiseKey(0, "rollout", 0, uid, index)
    return Request(uid, uid * 1000 + index, prompt, key, key, steps=2, metadata={"index": index})


@pytest.fixture
def draw() -> Draw:
    """``draw(uid, n)``: the group ``uid`` of n samples with noise for pictures, 8 x 6 pixels."""

    def group(uid: int, n: int = 4, prompt: str | None = None) -> list[Sample]:
        requests = [_request(uid, i, prompt or f"prompt {uid}") for i in range(n)]
        noise = torch.stack([randn(seed_of(uid, i), (6, 8, 3)) for i in range(n)])  # (n, H, W, 3)
        pixels = noise.mul(40).add(128).clamp(0, 255).to(torch.uint8)
        rows = TensorDict({"media": {"image": pixels}}, batch_size=[n]).unbind(0)
        return [Sample(request, row) for request, row in zip(requests, rows, strict=True)]

    return group


@pytest.fixture
def runner_of() -> Iterator[Callable[..., RewardRunner]]:
    """``runner_of(spec, ...)``; afterwards every runner is closed and no thread is left."""
    before = set(threading.enumerate())
    made: list[RewardRunner] = []

    def make(*specs: RewardSpec) -> RewardRunner:
        made.append(RewardRunner(specs))
        return made[-1]

    yield make
    for runner in made:
        runner.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # closing waits a moment only for a call that runs
    assert set(threading.enumerate()) <= before


@pytest.fixture
def score_all() -> Callable[[RewardRunner, list[Sample]], dict[int, Scored]]:
    """``score_all(runner, samples)``: the scored samples by sample id; every one came out exactly once."""

    def submit_and_collect(runner: RewardRunner, samples: list[Sample]) -> dict[int, Scored]:
        runner.submit(samples)
        scored = list(runner.completed())
        assert sorted(s.sample.request.sample_id for s in scored) == sorted(s.request.sample_id for s in samples)
        return {s.sample.request.sample_id: s for s in scored}

    return submit_and_collect
