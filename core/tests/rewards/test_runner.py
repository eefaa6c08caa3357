from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import ConfigError
from omni_rl.rewards.builtin import Brightness, JpegCompressibility
from omni_rl.rewards.runner import RewardRunner, RewardSpec


class ByIndex:
    """Scores a sample by its metadata, and remembers what it was asked."""

    scope = "sample"

    def __init__(self) -> None:
        self.calls: list[RewardBatch] = []

    def score(self, batch: RewardBatch):
        self.calls.append(batch)
        return [float(m["index"]) for m in batch.metadata]


@dataclass
class Answers:
    """Answers (or raises) what it is told to, whatever is asked."""

    answer: object
    scope: str = "sample"

    def score(self, batch: RewardBatch):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(batch) if callable(self.answer) else self.answer


class WinRate:
    """The share of the other members of its group that a sample outshines: meaningless without the whole group."""

    scope = "group"

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def score(self, batch: RewardBatch):
        self.calls.append(batch.uids)
        light = np.array([m["image"].data.mean() for m in batch.media])
        uids = np.array(batch.uids)
        return [
            (light[i] > light[uids == uids[i]]).sum() / max((uids == uids[i]).sum() - 1, 1) for i in range(len(uids))
        ]


@dataclass
class AsyncService:
    """Waits like a client of a slow service; counts how many requests are open at once."""

    delay: float = 0.05
    scope: str = "sample"
    open: int = 0
    most_open: int = 0
    threads: set[str] = field(default_factory=set)

    async def score(self, batch: RewardBatch):
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.threads.add(threading.current_thread().name)
        await asyncio.sleep(self.delay)
        self.open -= 1
        return [float(m["index"]) for m in batch.metadata]


def spec(reward, label: str = "r", weight: float = 1.0, batch_size: int = 4) -> RewardSpec:
    return RewardSpec(label, weight, batch_size, reward)


# ------------------------------------------------------------------------------------------------ values and weights


def test_the_value_is_the_weighted_sum_of_the_components(draw, runner_of, score_all) -> None:
    light, small = Brightness(Brightness.Config()), JpegCompressibility(JpegCompressibility.Config())
    samples = draw(1, 5)
    scored = score_all(runner_of(spec(light, "light", 3.0), spec(small, "small", -0.5, 2)), samples)
    for sample in samples:
        pixels = sample.trajectory["media", "image"].double() / 255
        result = scored[sample.request.sample_id]
        assert list(result.components) == ["light", "small"]
        assert result.components["light"] == pytest.approx(pixels.mean().item(), abs=1e-12)
        assert result.components["small"] < 0
        assert result.value == pytest.approx(3 * result.components["light"] - 0.5 * result.components["small"])
        assert result.sample is sample


def test_prompts_metadata_and_uids_stand_beside_their_media(draw, runner_of, score_all) -> None:
    reward = ByIndex()
    samples = draw(1, 3) + draw(2, 3)
    score_all(runner_of(spec(reward, batch_size=6)), samples)
    (call,) = reward.calls
    assert call.prompts == ["prompt 1"] * 3 + ["prompt 2"] * 3
    assert call.uids == [1, 1, 1, 2, 2, 2]
    assert call.metadata == [s.request.metadata for s in samples]
    for media, sample in zip(call.media, samples, strict=True):
        assert np.array_equal(media["image"].data, sample.trajectory["media", "image"].numpy())


def test_permuting_the_samples_permutes_the_rewards(draw, runner_of, score_all) -> None:
    samples = draw(1) + draw(2) + draw(3)
    rewards = [spec(Brightness(Brightness.Config()), "light", batch_size=5), spec(WinRate(), "wins", batch_size=4)]
    expected = {i: s.value for i, s in score_all(runner_of(*rewards), samples).items()}
    assert len(set(expected.values())) == len(samples)
    for seed in range(3):
        shuffled = random.Random(seed).sample(samples, len(samples))
        assert {i: s.value for i, s in score_all(runner_of(*rewards), shuffled).items()} == expected


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_per_sample_reward_does_not_depend_on_the_batching(draw, runner_of, score_all, batch_size) -> None:
    samples = draw(1, 7)
    reward = JpegCompressibility(JpegCompressibility.Config())
    alone = {s.request.sample_id: score_all(runner_of(spec(reward)), [s]).popitem()[1].value for s in samples}
    together = score_all(runner_of(spec(reward, batch_size=batch_size)), samples)
    assert {i: s.value for i, s in together.items()} == alone


@pytest.mark.parametrize("convert", [np.array, torch.tensor, tuple, lambda x: [np.float32(v) for v in x]])
def test_arrays_tensors_and_numpy_numbers_are_accepted(draw, runner_of, score_all, convert) -> None:
    reward = Answers(lambda batch: convert([0.5, 1.0, 0.25]))
    scored = score_all(runner_of(spec(reward)), draw(1, 3))
    values = [s.value for s in scored.values()]
    assert values == [0.5, 1.0, 0.25]
    assert {type(v) for v in values} == {float}


# -------------------------------------------------------------------------------------------------------- batching


def test_groups_are_coalesced_up_to_the_batch_size(draw, runner_of) -> None:
    reward = ByIndex()
    runner = runner_of(spec(reward, batch_size=6))
    for uid in range(4):
        runner.submit(draw(uid, 4))
    assert len(list(runner.completed())) == 16
    assert [call.uids for call in reward.calls] == [[0, 0, 0, 0, 1, 1], [1, 1, 2, 2, 2, 2], [3, 3, 3, 3]]


def test_two_entries_of_one_reward_class_have_their_own_batch_sizes(draw, runner_of, score_all) -> None:
    large, small = ByIndex(), ByIndex()
    scored = score_all(runner_of(spec(large, "large", 1.0, 8), spec(small, "small", 10.0, 3)), draw(1, 8))
    assert [len(call) for call in large.calls] == [8]
    assert [len(call) for call in small.calls] == [3, 3, 2]
    assert {i: s.value for i, s in scored.items()} == {1000 + i: 11.0 * i for i in range(8)}


def test_a_group_reward_gets_whole_groups_and_several_if_they_fit(draw, runner_of) -> None:
    reward = WinRate()
    runner = runner_of(spec(reward, batch_size=9))
    for uid in range(5):
        runner.submit(draw(uid, 4))
    values = [s.value for s in runner.completed()]
    assert reward.calls == [[0] * 4 + [1] * 4, [2] * 4 + [3] * 4, [4] * 4]
    assert sorted(values) == pytest.approx(sorted([0, 1 / 3, 2 / 3, 1] * 5))


def test_a_group_larger_than_the_batch_size_is_not_split(draw, runner_of, score_all) -> None:
    reward = WinRate()
    score_all(runner_of(spec(reward, batch_size=3)), draw(1, 2) + draw(2, 5) + draw(3, 2))
    assert reward.calls == [[1] * 2, [2] * 5, [3] * 2]


def test_groups_are_told_apart_by_uid_and_not_by_text(draw, runner_of, score_all) -> None:
    reward = WinRate()
    score_all(runner_of(spec(reward, batch_size=4)), draw(1, 4, prompt="a cat") + draw(2, 4, prompt="a cat"))
    assert reward.calls == [[1] * 4, [2] * 4]


def test_what_shares_a_call_does_not_depend_on_timing(draw, runner_of) -> None:
    seen = []
    for pause in (0.0, 0.02):
        reward = ByIndex()
        runner = runner_of(spec(reward, batch_size=3))
        for uid in range(3):
            runner.submit(draw(uid, 4))
            time.sleep(pause)
        list(runner.completed())
        seen.append([call.uids for call in reward.calls])
    assert seen[0] == seen[1]


# ------------------------------------------------------------------------------------------------------- streaming


def test_a_full_call_starts_while_the_driver_goes_on(draw, runner_of) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(batch: RewardBatch) -> list[float]:
        begun.set()
        assert go_on.wait(10)
        return [1.0] * len(batch)

    runner = runner_of(spec(Answers(slow), batch_size=4))
    runner.submit(draw(1, 4))
    assert begun.wait(10)  # before completed() was asked for anything
    runner.submit(draw(2, 4))  # does not wait for the running call
    go_on.set()
    assert len(list(runner.completed())) == 8


def test_plain_rewards_never_run_side_by_side(draw, runner_of, score_all) -> None:
    lock = threading.Lock()

    def alone(batch: RewardBatch) -> list[float]:
        assert lock.acquire(blocking=False), "two plain rewards at once"
        time.sleep(0.005)
        lock.release()
        return [1.0] * len(batch)

    runner = runner_of(spec(Answers(alone), "a", batch_size=2), spec(Answers(alone), "b", batch_size=2))
    assert all(s.value == 2.0 for s in score_all(runner, draw(1, 8)).values())
    assert runner.failures == []


def test_async_rewards_run_side_by_side_off_the_drivers_thread(draw, runner_of, score_all) -> None:
    service = AsyncService()
    scored = score_all(runner_of(spec(service, batch_size=1)), draw(1, 6))
    assert {i: s.value for i, s in scored.items()} == {1000 + i: float(i) for i in range(6)}
    assert service.most_open == 6
    assert threading.current_thread().name not in service.threads


def test_a_plain_reward_does_not_hold_up_an_async_one(draw, runner_of, score_all) -> None:
    answered = threading.Event()

    async def quick(batch: RewardBatch) -> list[float]:
        answered.set()
        return [1.0] * len(batch)

    class Quick:
        scope = "sample"
        score = staticmethod(quick)

    def waits(batch: RewardBatch) -> list[float]:
        assert answered.wait(10)
        return [1.0] * len(batch)

    scored = score_all(runner_of(spec(Answers(waits), "plain"), spec(Quick(), "async")), draw(1, 4))
    assert all(s.value == 2.0 for s in scored.values())


def test_finished_samples_arrive_before_unfinished_ones(draw, runner_of) -> None:
    go_on = threading.Event()

    async def score(batch: RewardBatch) -> list[float]:
        while batch.uids[0] == 1 and not go_on.is_set():
            await asyncio.sleep(0.001)
        return [1.0] * len(batch)

    runner = runner_of(spec(Answers(score), batch_size=4))
    runner.submit(draw(1, 4) + draw(2, 4))
    completed = runner.completed()
    assert [next(completed).sample.request.uid for _ in range(4)] == [2] * 4
    go_on.set()
    assert [s.sample.request.uid for s in completed] == [1] * 4


def test_a_second_round_and_a_broken_off_one_lose_nothing(draw, runner_of) -> None:
    runner = runner_of(spec(ByIndex(), batch_size=3))
    runner.submit(draw(1, 4))
    first = next(runner.completed())  # the caller leaves after one sample
    runner.submit(draw(2, 4))
    rest = list(runner.completed())
    assert sorted(s.sample.request.sample_id for s in [first, *rest]) == [
        1000,
        1001,
        1002,
        1003,
        2000,
        2001,
        2002,
        2003,
    ]
    assert list(runner.completed()) == []


def test_labels_are_unique_and_there_is_one_at_least() -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError, match="two rewards have the label 'r'"):
        RewardRunner([spec(ByIndex()), spec(ByIndex())])
    with pytest.raises(ConfigError, match="no reward"):
        RewardRunner([])
    assert threading.active_count() == before
