"""What the runner makes of rewards that raise, answer nonsense, or are still busy when the run ends."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from omni_rl.contracts.reward import RewardBatch
from omni_rl.contracts.types import Sample
from omni_rl.errors import RewardError
from omni_rl.rewards.runner import RewardRunner, RewardSpec, Scored


@dataclass
class Answers:
    """Answers (or raises) what it is told to, whatever is asked."""

    answer: object
    scope: str = "sample"

    def score(self, batch: RewardBatch):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(batch) if callable(self.answer) else self.answer


def by_index(batch: RewardBatch) -> list[float]:
    return [float(m["index"]) for m in batch.metadata]


def spec(reward, label: str = "r", weight: float = 1.0, batch_size: int = 4) -> RewardSpec:
    return RewardSpec(label, weight, batch_size, reward)


class ServerError(Exception):
    """What an HTTP client raises for a response of status 500."""


def test_a_reward_that_raises_leaves_its_samples_missing(draw, runner_of, score_all) -> None:
    def flaky(batch: RewardBatch) -> list[float]:
        if batch.uids[0] == 1:
            raise ServerError("500 Internal Server Error")
        return [1.0] * len(batch)

    runner = runner_of(spec(Answers(flaky), "flaky", batch_size=2), spec(Answers(by_index), "index"))
    scored = score_all(runner, draw(1, 2) + draw(2, 2))
    assert [scored[i].value for i in (1000, 1001, 2000, 2001)] == [None, None, 1.0, 2.0]
    assert scored[1001].components == {"flaky": None, "index": 1.0}
    (failure,) = runner.failures
    assert "reward 'flaky' failed: ServerError: 500 Internal Server Error" in failure
    assert "test_runner_failures.py:" in failure
    assert 'raise ServerError("500 Internal Server Error")' in failure


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_nothing_that_is_raised_hangs_or_ends_the_runner(draw, runner_of, score_all, error, kind) -> None:
    async def score(batch: RewardBatch) -> list[float]:
        raise error

    runner = runner_of(spec(Answers(error if kind == "plain" else score), "bad"))
    assert all(s.value is None for s in score_all(runner, draw(1, 4)).values())
    assert all(s.value is None for s in score_all(runner, draw(2, 4)).values())
    assert len(runner.failures) == 2


def test_a_reward_may_say_missing_for_single_samples(draw, runner_of, score_all) -> None:
    runner = runner_of(spec(Answers([1.0, None, 0.0, 2.0])))
    assert [s.value for s in score_all(runner, draw(1, 4)).values()] == [1.0, None, 0.0, 2.0]
    assert runner.failures == []


def test_a_sample_that_was_not_drawn_is_missing_and_no_reward_sees_it(draw, runner_of, score_all) -> None:
    seen: list[list[int]] = []

    def rank(batch: RewardBatch) -> list[int]:
        seen.append(batch.uids)
        return [sum(m["index"] > other["index"] for other in batch.metadata) for m in batch.metadata]

    good = draw(1, 4)
    lost = Sample(good[2].request, error="engine lost")
    scored = score_all(runner_of(spec(Answers(rank, "group"), "rank")), [good[0], good[1], lost, good[3]])
    assert seen == [[1, 1, 1]]
    assert scored[1002] == Scored(lost, None, {"rank": None})
    assert sorted(scored[i].value for i in (1000, 1001, 1003)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([1.0, 2.0, 3.0], "returned 3 scores for 4 samples (first prompt: 'prompt 1')"),
        (np.zeros(5), "returned 5 scores for 4 samples"),
        ([], "returned 0 scores for 4 samples"),
        (
            [0.0, float("nan"), 1.0, 1.0],
            "returned nan, which is not a finite number, for the prompt 'prompt 1' (sample 1001)",
        ),
        (torch.tensor([0.0, 1.0, 1.0, float("inf")]), "returned inf, which is not a finite number"),
        ([0.0, "0.5", 1.0, 1.0], "returned '0.5', which is not a finite number"),
        (np.zeros((4, 1)), "returned [0.0], which is not a finite number"),
        (0.5, "returned 0.5 (float) for 4 samples (first prompt: 'prompt 1')"),
        (np.float32(0.5), "(float32) for 4 samples"),
        (None, "returned None (NoneType) for 4 samples"),
        ("high", "returned 'high' (str) for 4 samples"),
        ({1: 1, 2: 2, 3: 3, 4: 4}, "(dict) for 4 samples"),
    ],
)
def test_an_answer_that_is_no_reward_is_an_error_that_shows_it(draw, runner_of, answer, said) -> None:
    runner = runner_of(spec(Answers(answer), "mine"))
    runner.submit(draw(1, 4))
    with pytest.raises(RewardError) as caught:
        list(runner.completed())
    assert caught.value.what.startswith("reward 'mine' returned ")
    assert said in caught.value.what
    assert caught.value.hint


def test_after_a_broken_contract_the_caller_can_go_on(draw, runner_of) -> None:
    runner = runner_of(spec(Answers(lambda b: [float("nan")] if b.uids[0] == 1 else [1.0] * len(b)), batch_size=4))
    runner.submit(draw(1, 1) + draw(2, 3) + draw(3, 4))
    with pytest.raises(RewardError):
        list(runner.completed())
    assert {s.sample.request.sample_id: s.value for s in runner.completed()} == {
        **dict.fromkeys((1000, 2000, 2001, 2002)),
        **dict.fromkeys((3000, 3001, 3002, 3003), 1.0),
    }


# ------------------------------------------------------------------------------------------------------------- close


def test_close_ends_the_threads_at_once_though_work_is_queued(draw) -> None:
    before = set(threading.enumerate())
    begun, calls = threading.Event(), []

    def slow(batch: RewardBatch) -> list[float]:
        begun.set()
        calls.append(batch)
        time.sleep(0.1)
        return [1.0] * len(batch)

    async def never(batch: RewardBatch) -> list[float]:
        await asyncio.sleep(3600)
        return [1.0] * len(batch)

    runner = RewardRunner([spec(Answers(slow), "slow", batch_size=1), spec(Answers(never), "never", batch_size=1)])
    runner.submit(draw(1, 8))
    assert begun.wait(10)
    start = time.monotonic()
    runner.close()
    runner.close()
    assert time.monotonic() - start < 5
    assert len(calls) < 8  # the running one was waited for, the others never began
    assert set(threading.enumerate()) <= before
