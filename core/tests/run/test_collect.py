"""From an engine's stream to one batch: completeness, identity, retries, missing rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.interfaces import SyncReport
from omni_rl.contracts.requests import Request, Sde
from omni_rl.contracts.types import Sample
from omni_rl.errors import RewardError, RunError
from omni_rl.rewards.runner import RewardRunner, RewardSpec, Scored
from omni_rl.run.collect import (
    Collected,
    collect,
    components,
    judged,
    not_flat,
    outcomes,
    reward_metrics,
    without_still_steps,
)
from omni_rl.sampling.stream import finished_groups
from omni_rl.schedulers.types import NoiseKey


def requests_of(groups: int = 2, size: int = 3) -> list[Request]:
    found = []
    for number in range(groups * size):
        key = NoiseKey(0, "rollout", 0, number // size, number % size)
        found.append(Request(number // size, number, f"prompt {number // size}", key, key, steps=2, policy_version=4))
    return found


def drawn(request: Request, **changes: int) -> Sample:
    image = torch.full((2, 2, 3), request.sample_id, dtype=torch.uint8)
    identity = {name: value[0] for name, value in trajectory.identity([request]).items()}
    identity |= {name: torch.tensor(value) for name, value in changes.items()}
    return Sample(request, TensorDict({"media": {"image": image}, **identity}))


def with_scale(request: Request, scale: float) -> Sample:
    """A sample of an engine that draws with a guidance scale of its own and changes the request alike."""
    sample = drawn(replace(request, call={"guidance_scale": scale}))
    sample.trajectory["call"] = {"guidance_scale": torch.tensor(scale, dtype=torch.float64)}
    return sample


class Fake:
    """An engine that answers what ``answer`` makes of each submission."""

    honours = frozenset[str]()

    def __init__(self, answer) -> None:
        self.answer, self.asked = answer, []

    def submit(self, requests: Sequence[Request]) -> None:
        self.asked.append(list(requests))

    def completed(self) -> Iterator[Sample]:
        yield from self.answer(self.asked[-1], len(self.asked))

    def sync(self, policy_version: int) -> SyncReport:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def scorer(function) -> RewardRunner:
    return RewardRunner([RewardSpec("level", 2.0, 64, SimpleNamespace(scope="sample", score=function))])


def level(batch) -> list[float | None]:
    """The picture's value; none for number 4."""
    values = [float(media["image"].data[0, 0, 0]) for media in batch.media]
    return [None if value == 4 else value for value in values]


def test_groups_are_whole_and_in_order_whatever_arrives_first():
    engine = Fake(lambda asked, _: [drawn(asked[i]) for i in (5, 0, 3, 2, 4, 1)])
    groups = [[s.request.sample_id for s in group] for group in finished_groups(engine, requests_of())]
    assert groups == [[3, 4, 5], [0, 1, 2]]


def test_a_failed_request_is_asked_again_alone_with_its_key():
    def answer(asked, attempt):
        lost = {1: {1, 4}, 2: {4}}.get(attempt, set())
        return [Sample(r, error="lost") if r.sample_id in lost else drawn(r) for r in asked]

    requests, engine = requests_of(), Fake(answer)
    samples = [s for group in finished_groups(engine, requests) for s in group]
    assert engine.asked == [requests, [requests[1], requests[4]], [requests[4]]]
    assert {s.request.sample_id for s in samples if s.error is None} == set(range(6))


def test_what_fails_to_the_end_is_a_missing_sample_and_no_number():
    engine = Fake(lambda asked, _: [Sample(r, error="cuda") if r.sample_id == 2 else drawn(r) for r in asked])
    collected = collect(engine, scorer(level), requests_of())
    assert [s.value for s in collected.scored] == [0.0, 2.0, None, 6.0, None, 10.0]
    valid = judged(collected)
    assert [s.sample.request.sample_id for s in valid] == [0, 1, 3, 5]
    assert outcomes(valid)["rewards"].tolist() == [0.0, 2.0, 6.0, 10.0]
    assert outcomes(valid)["uid"].tolist() == [0, 0, 1, 1]
    assert components(valid)["level"].tolist() == [0.0, 1.0, 3.0, 5.0]
    figures = reward_metrics(collected.scored, valid)
    assert figures["reward/mean"] == 4.5
    assert figures["reward/std"] == pytest.approx(torch.tensor([0.0, 2, 6, 10]).std(correction=0).item())
    assert figures["reward/missing_ratio"] == pytest.approx(2 / 6)
    assert figures["reward/zero_std_ratio"] == 0
    assert figures["reward/level/mean"] == 2.25


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda asked, _: [drawn(r) for r in asked[:4]], "lost 2 of 6 requests, e.g. sample 4"),
        (lambda asked, _: [drawn(r) for r in [*asked, asked[0]]], "returned sample 0 twice or without a request"),
        (lambda asked, _: [drawn(r, uid=1) for r in asked], "returned uid 1 for the request with uid 0"),
        (lambda asked, _: [drawn(r, sample_id=9) for r in asked], "sample_id 9 for the request with sample_id 0"),
        (
            lambda asked, _: [with_scale(r, 4.0) for r in asked],
            "a sample with guidance_scale 4.0 for the request with guidance_scale 4.5",
        ),
        (lambda asked, _: [drawn(r, policy_version=3) for r in asked], "policy_version 3 .* policy_version 4"),
    ],
    ids=["lost", "twice", "another group", "another sample", "other arguments", "an old policy"],
)
def test_what_an_engine_must_not_hand_over(answer, says):
    requests = [replace(r, call={"guidance_scale": 4.5}) for r in requests_of()]
    with pytest.raises(RunError, match=says):
        list(finished_groups(Fake(answer), requests))


def test_an_iteration_without_any_reward_says_why():
    def broken(batch):
        raise KeyError("imaeg")

    engine = Fake(lambda asked, _: [drawn(r) for r in asked])
    with pytest.raises(RewardError, match=r"none of the iteration's 6 samples has a reward.*imaeg"):
        judged(collect(engine, scorer(broken), requests_of()))


def test_groups_without_signal_are_counted():
    scored = [Scored(drawn(r), 1.0 if r.uid else float(r.sample_id), {"level": 1.0}) for r in requests_of()]
    collected = Collected(scored, [], 0.0, 0.0)
    assert reward_metrics(scored, judged(collected))["reward/zero_std_ratio"] == 0.5


def test_groups_without_signal_can_be_left_out():
    """Whole groups go, and of the others every row stays, those with an advantage of 0 included."""
    uid, advantages = torch.tensor([3, 3, 3, 5, 5, 9]), torch.zeros(6)
    advantages[0] = 1.0
    assert not_flat(uid, advantages).tolist() == [True, True, True, False, False, False]
    assert not bool(not_flat(uid[3:], advantages[3:]).any())


@pytest.mark.parametrize(("kind", "weights"), [("cps", [[1.0, 1.0], [1.0, 0.0]]), ("sde", None), ("dance_sde", None)])
def test_steps_without_noise_are_left_out_of_every_mean(kind, weights):
    sigmas = torch.tensor([[0.9, 0.6, 0.3], [0.6, 0.3, 0.0]])
    batch = TensorDict({"latents": {"x": {"all": torch.zeros(2, 3, 4)}}, "sigmas": sigmas}, batch_size=[2])
    found = without_still_steps(batch, Sde(kind, 0.7))
    assert (found["loss_weights"].tolist() if "loss_weights" in found.keys() else None) == weights
