"""The engine suite fails one test for each way to break the contract. A sound engine: core/tests/engines."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace

import pytest
import torch

from omni_rl.contracts.interfaces import SyncReport
from omni_rl.contracts.requests import Window
from omni_rl.contracts.types import Sample
from omni_rl.sampling.embedded import EmbeddedEngine
from omni_rl_testing.engine import EngineContract, assembled
from omni_rl_testing.toy import toy_model


class Unknown(EmbeddedEngine):
    honours = EmbeddedEngine.honours | {"predicts"}


class Twice(EmbeddedEngine):
    def completed(self):
        for sample in super().completed():
            yield sample
            yield sample


class Lossy(EmbeddedEngine):
    def completed(self):
        yield from list(super().completed())[1:]


class Failing(EmbeddedEngine):
    def completed(self):
        for sample in super().completed():
            yield Sample(sample.request, error="lost")


class Swapping(EmbeddedEngine):
    """Hands over its neighbour's trajectory."""

    def completed(self):
        samples = list(super().completed())
        for sample, other in zip(samples, reversed(samples), strict=True):
            yield Sample(sample.request, other.trajectory)


class SwappedLatents(EmbeddedEngine):
    """Hands over its neighbour's trajectory under the sample's own name."""

    def completed(self):
        samples = list(super().completed())
        kept = [sample.trajectory.clone() for sample in samples]
        for sample, other in zip(samples, reversed(kept), strict=True):
            for name in ("uid", "sample_id", "policy_version"):
                other[name] = sample.trajectory[name]
            yield Sample(sample.request, other)


class SwappedMedia(EmbeddedEngine):
    """Hands over its neighbour's picture."""

    def completed(self):
        samples = list(super().completed())
        media = [sample.trajectory["media"].clone() for sample in samples]
        for sample, other in zip(samples, media[1:] + media[:1], strict=True):
            sample.trajectory["media"] = other
            yield sample


class Framing(EmbeddedEngine):
    """Draws a frame into one corner of every picture."""

    def completed(self):
        for sample in super().completed():
            sample.trajectory["media", "image"][0, 0] = 255 - sample.trajectory["media", "image"][0, 0]
            yield sample


class Rewriting(EmbeddedEngine):
    """Answers with requests of its own making."""

    def submit(self, requests):
        super().submit([replace(request, metadata={"seen": True}) for request in requests])


class AlwaysNoisy(EmbeddedEngine):
    """Knows no request without noise."""

    def submit(self, requests):
        noisy = {request.sample_id: request for request in requests}
        super().submit([replace(r, window=r.window if r.window.size else Window(0, 1)) for r in noisy.values()])


class Halved(EmbeddedEngine):
    """bf16 latents on the way."""

    def completed(self):
        for sample in super().completed():
            stored = sample.trajectory["latents", "x"]
            stored["all"] = stored["all"].bfloat16()
            yield sample


class Extra(EmbeddedEngine):
    def completed(self):
        for sample in super().completed():
            sample.trajectory["custom_output"] = torch.zeros(1)
            yield sample


class ByPlace(EmbeddedEngine):
    """Draws by the place in the queue instead of the key."""

    def submit(self, requests):
        keyed = [replace(r, key=replace(r.key, sample=i)) for i, r in enumerate(requests)]
        super().submit([replace(r, initial_key=r.key) for r in keyed])


class OwnNoise(EmbeddedEngine):
    """The declared x_T, then noise of the engine's own."""

    def submit(self, requests):
        super().submit([replace(request, key=replace(request.key, run_seed=1)) for request in requests])


class Mixing(EmbeddedEngine):
    """Members of a batch bleed into each other."""

    def completed(self):
        batches = [list(batch) for batch in self._waiting]
        samples = {sample.request.sample_id: sample for sample in super().completed()}
        for batch in batches:
            finals = [samples[r.sample_id].trajectory["latents", "x", "final"].clone() for r in batch]
            for request, value in zip(batch, finals, strict=True):
                samples[request.sample_id].trajectory["latents", "x", "final"] = value + 0.01 * sum(finals)
        yield from samples.values()


class Identical(EmbeddedEngine):
    """Every member of a group is the same sample."""

    def submit(self, requests):
        keyed = [replace(request, key=replace(request.key, sample=0)) for request in requests]
        super().submit([replace(request, initial_key=request.key) for request in keyed])


class NoReceipt(EmbeddedEngine):
    def sync(self, policy_version, weights):
        landed = dict(list(super().sync(policy_version, weights).landed.items())[1:])
        return SyncReport(policy_version, landed)


class Frozen(EmbeddedEngine):
    """Samples from the weights that it was built with, whatever is synchronised."""

    def sync(self, policy_version, weights):
        if policy_version == 0:
            self._kept = copy.deepcopy(self._model.pipe.transformer.state_dict())
        return super().sync(policy_version, weights)

    def completed(self):
        now = copy.deepcopy(self._model.pipe.transformer.state_dict())
        self._model.pipe.transformer.load_state_dict(self._kept)
        samples = list(super().completed())
        self._model.pipe.transformer.load_state_dict(now)
        yield from samples


class Hasty(EmbeddedEngine):
    """Leaves weights that it believes to know."""

    def __init__(self, context):
        super().__init__(context)
        self.takes_weights = "merged"

    def sync(self, policy_version, weights):
        return SyncReport(policy_version, {name: name for name in self._model.parameters()})


class CloseOnce(EmbeddedEngine):
    def close(self):
        del self._waiting


FAULTS = {
    Unknown: "test_hooks_that_it_honours_exist",
    Twice: "test_every_request_comes_back_exactly_once",
    Lossy: "test_every_request_comes_back_exactly_once",
    Failing: "test_every_request_comes_back_exactly_once",
    Swapping: "test_samples_say_whose_they_are",
    SwappedLatents: "test_latents_belong_to_their_request",
    SwappedMedia: "test_media_are_the_final_latents_decoded",
    Framing: "test_media_are_the_final_latents_decoded",
    Rewriting: "test_samples_say_whose_they_are",
    AlwaysNoisy: "test_a_request_without_a_window_is_sampled_too",
    Halved: "test_trajectories_are_as_documented",
    Extra: "test_trajectories_are_as_documented",
    ByPlace: "test_draws_follow_their_keys",
    OwnNoise: "test_draws_follow_their_keys",
    Mixing: "test_neighbours_do_not_matter",
    Identical: "test_no_two_samples_are_alike",
    NoReceipt: "test_sync_gives_a_receipt_for_every_weight",
    Hasty: "test_sync_drains_the_weights",
    Frozen: "test_samples_follow_the_weights",
    CloseOnce: "test_closing_twice_is_closing",
}
TESTS = [name for name in dir(EngineContract) if name.startswith("test_")]


@pytest.mark.parametrize(("faulty", "test"), FAULTS.items(), ids=[kind.__name__ for kind in FAULTS])
def test_a_fault_is_found(faulty, test):
    method = getattr(EngineContract(), test)
    given = {"parts": assembled(faulty, toy_model(), {}), "order": "reversed", "stored": "without"}
    with pytest.raises((AssertionError, AttributeError)):
        method(**{name: given[name] for name in inspect.signature(method).parameters})


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_a_fault(test):
    assert test in FAULTS.values()


@pytest.mark.parametrize("stored", ["with stored steps", "without"])
def test_swapped_latents_are_named(stored):
    parts = assembled(SwappedLatents, toy_model(), {})
    with pytest.raises(AssertionError, match=r"gave sample \d+ the trajectory of sample \d+ .*rewards would go"):
        EngineContract().test_latents_belong_to_their_request(parts, stored)


@pytest.mark.parametrize(
    ("faulty", "sentence"),
    [
        (SwappedMedia, r"gave sample \d+ the image of sample \d+ .*rewards would go to the wrong samples"),
        (Framing, r"the image of sample \d+ differs from its final latents, decoded .* in one value by"),
    ],
)
def test_foreign_media_are_named(faulty, sentence):
    with pytest.raises(AssertionError, match=sentence):
        EngineContract().test_media_are_the_final_latents_decoded(assembled(faulty, toy_model(), {}))
