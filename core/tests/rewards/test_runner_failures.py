"""What the runner makes of rewards that raise, answer nonsense, or are still busy when the run ends."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass

import pytest

from omni_rl.contracts.reward import RewardBatch
from omni_rl.contracts.types import Sample
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


def test_a_call_that_fails_once_is_tried_again(draw, runner_of, score_all) -> None:
    calls: list[int] = []

    def once(batch: RewardBatch) -> list[float]:
        calls.append(len(batch))
        if len(calls) == 1:
            raise ServerError("503 Service Unavailable")
        return by_index(batch)

    runner = runner_of(spec(Answers(once)))
    assert [s.value for s in score_all(runner, draw(1, 4)).values()] == [0.0, 1.0, 2.0, 3.0]
    assert calls == [4, 4]
    assert runner.failures == []


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
