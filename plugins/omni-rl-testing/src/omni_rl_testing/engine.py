"""Contract tests of rollout engines. See :class:`EngineContract`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from omni_rl.contracts import trajectory
from omni_rl.contracts.context import ENGINE_HOOKS, Context
from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import NO_STEPS
from omni_rl.gate.pairing import latents_fault, media_fault
from omni_rl.gate.probe import Probe
from omni_rl.schedulers.randomness import INITIAL, draw_seed, randn
from omni_rl_testing.parts import Parts, assemble
from omni_rl_testing.toy import toy_model
from omni_rl_testing.trajectories import check_documented, found, noises, replayed


class EngineContract:
    """Checks that a run can use an engine. Inherit it and supply one fixture.

    ``engine``: the object of the entry point. Called with a :class:`Context`, it returns an engine.

    Optional fixtures:

    ``make_model``: a function that returns the model to sample from; default: the toy pipeline, in this process.

    ``call``: arguments for that pipeline.

    Attributes:
        tolerance: largest allowed difference of log-probs and latents from core's own, relative to the largest value.
    """

    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture
    def make_model(self) -> Callable[[], LoadedModel]:
        """Make the toy pipeline."""
        return toy_model

    @pytest.fixture
    def call(self) -> dict[str, Any]:
        """None."""
        return {}

    @pytest.fixture
    def parts(
        self, engine: Callable[[Context], Engine], make_model: Callable[[], LoadedModel], call: dict[str, Any]
    ) -> Iterator[Parts]:
        """The parts of a run with the engine: weights changed and synced, nine samples in batches of at most four."""
        parts = assembled(engine, make_model(), call)
        yield parts
        parts.engine.close()

    def test_hooks_that_it_honours_exist(self, parts: Parts) -> None:
        """``honours`` decides whether a run that overrides a hook may use the engine.

        Fix ``honours``: list the hooks that the engine calls, from ``omni_rl.contracts.context.ENGINE_HOOKS``.
        """
        assert parts.engine.honours <= ENGINE_HOOKS

    # ------------------------------------------------------------------------------------------------------ requests

    def test_every_request_comes_back_exactly_once(self, parts: Parts) -> None:
        """Each submitted request gives one sample, in however many calls of ``submit``.

        Fix ``submit`` (it adds to the queue) or ``completed`` (it ends when no request is left).
        """
        requests = parts.requests()
        parts.engine.submit(requests[:4])
        parts.engine.submit(requests[4:])
        samples = list(parts.engine.completed())
        assert [sample.error for sample in samples] == [None] * len(requests)
        assert sorted(sample.request.sample_id for sample in samples) == [r.sample_id for r in requests]
        assert list(parts.engine.completed()) == []

    def test_samples_say_whose_they_are(self, parts: Parts) -> None:
        """A trajectory with the identity of another request would be trained with that request's reward.

        Fix ``completed``: return the submitted request with its ``uid`` and ``sample_id``.
        """
        requests = [replace(request, uid=request.uid + 40, policy_version=7) for request in parts.requests()]
        parts.sync(7)
        by_id = {request.sample_id: request for request in requests}
        for sample in parts.draw(requests):
            assert sample.request == by_id[sample.request.sample_id]
            for name in ("uid", "sample_id", "policy_version"):
                assert int(found(sample)[name]) == getattr(sample.request, name)

    def test_a_request_without_a_window_is_sampled_too(self, parts: Parts) -> None:
        """Validation stores no log-probs; its samples still follow from key and weights.

        Fix ``completed``: a window of size 0 means only ODE steps, and log-probs of shape (0,).
        """
        samples = parts.draw([replace(request, window=NO_STEPS) for request in parts.requests()])
        assert {tuple(found(sample)["log_probs"].shape) for sample in samples} == {(0,)}
        assert all(found(sample)["latents", "x", "final"].any() for sample in samples)

    def test_trajectories_are_as_documented(self, parts: Parts) -> None:
        """Keys, shapes and dtypes are those of :mod:`omni_rl.contracts.trajectory`; tensors are on the CPU and finite,
        sigmas decrease.

        Fix ``completed``: ``omni_rl.authoring.engine.recorded`` builds the trajectories of a finished state.
        """
        for sample in parts.draw(parts.requests()):
            assert found(sample).batch_size == torch.Size([])
            check_documented(sample)
            assert (found(sample)["sigmas"].diff() < 0).all()

    @pytest.mark.parametrize("stored", ["with stored steps", "without"])
    def test_latents_belong_to_their_request(self, parts: Parts, stored: str) -> None:
        """A reward must go to the sample that earned it: no request gets the latents of another one.

        Fix ``completed``: pair finished latents with their request by ``sample_id``, not by their place.
        """
        asked = parts.requests()
        if stored == "without":
            asked = [replace(request, window=NO_STEPS) for request in asked]
        samples = parts.draw(asked)
        fault = latents_fault(parts.subject, Probe(asked, samples, trajectory.collate(samples), spare=[]))
        assert fault is None, fault

    def test_media_are_the_final_latents_decoded(self, parts: Parts) -> None:
        """Rewards see the media, training sees the latents: of every sample, one must be the other, decoded.

        Fix ``completed``: store what ``decode_latents`` returns for the sample's own final latents, quantised with
        ``omni_rl.contracts.media.quantise``.
        """
        fault = media_fault(parts.subject, parts.draw(parts.requests()))
        assert fault is None, fault

    # --------------------------------------------------------------------------------------------------------- draws

    @pytest.mark.parametrize("order", ["together", "reversed", "alone"])
    def test_draws_follow_their_keys(self, parts: Parts, order: str) -> None:
        """x_T and the noise of every step are those of the request's keys, in any batch and any order.

        Fix ``completed``: x_T from ``request.initial_key``, noise of step i from ``draw_seed(request.key, stream, i)``.
        """
        requests = parts.requests()
        portions = {"together": [requests], "reversed": [requests[::-1]], "alone": [[r] for r in requests]}[order]
        asked = {request.sample_id: request for request in requests}
        drawn = [sample for portion in portions for sample in parts.draw(portion)]
        samples = [replace(sample, request=asked[sample.request.sample_id]) for sample in drawn]
        for sample in samples:
            for stream, latents in found(sample)["latents"].items() if sample.request.window.start == 0 else ():
                named = randn(draw_seed(sample.request.initial_key, stream, INITIAL), latents["final"].shape)
                assert torch.equal(latents["all"][0], named)
        for taken, named in noises(parts, samples):
            torch.testing.assert_close(taken, named, rtol=0, atol=100 * self.tolerance)

    def test_neighbours_do_not_matter(self, parts: Parts) -> None:
        """A sample is the same in a batch of one and in a larger batch, except for rounding.

        Fix ``completed``: rows of a batch may share only the schedule; mask the padding.
        """
        together = parts.draw(parts.requests())
        alone = [sample for request in parts.requests() for sample in parts.draw([request])]
        for a, b in zip(together, alone, strict=True):
            for stream, latents in found(a)["latents"].items():
                self.assert_close(latents["final"], found(b)["latents", stream, "final"])

    def test_no_two_samples_are_alike(self, parts: Parts) -> None:
        """Samples of a group have the same prompt and weights; only their noise differs.

        Fix ``completed``: use the key of each request.
        """
        finals = [found(sample)["latents", "x", "final"] for sample in parts.draw(parts.requests())]
        alike = [(i, j) for i, a in enumerate(finals) for j, b in enumerate(finals[:i]) if (a - b).abs().max() < 1e-3]
        assert alike == []

    # ------------------------------------------------------------------------------------------------------- weights

    def test_sync_gives_a_receipt_for_every_weight(self, parts: Parts) -> None:
        """A weight that does not reach the engine is trained without effect on samples.

        Fix ``sync``: report for each weight name the engine's parameter that holds it, and the new version.
        """
        report = parts.sync(3)
        assert report.policy_version == 3
        assert set(parts.backend.weight_names(parts.engine.takes_weights)) <= report.landed.keys()

    def test_sync_drains_the_weights(self, parts: Parts) -> None:
        """``weights`` may be a collective operation of many ranks, which all wait until it is consumed.

        Fix ``sync``: read ``weights`` to its end.
        """
        form = parts.engine.takes_weights
        weights = iter(()) if form == "none" else parts.backend.weights("trained", form)
        parts.engine.sync(0, weights)
        assert next(weights, None) is None

    def test_samples_follow_the_weights(self, parts: Parts) -> None:
        """After a sync, samples change, and their log-probs are those of the trainer's weights.

        Fix ``sync``: later samples must use the trainer's weights, with adapters (scale alpha / rank).
        """
        before = parts.draw(parts.requests())
        parts.nudge(seed=1)
        parts.sync(1)
        after = parts.draw(parts.requests())
        batch = trajectory.collate(after)
        assert not torch.equal(batch["latents", "x", "final"], trajectory.collate(before)["latents", "x", "final"])
        self.assert_close(replayed(parts, batch), batch["log_probs"])

    def test_closing_twice_is_closing(self, parts: Parts) -> None:
        """A run may close its engine twice, with or without waiting requests.

        Fix ``close``: release all resources once, and delete waiting requests.
        """
        parts.engine.submit(parts.requests())
        parts.engine.close()
        parts.engine.close()

    def assert_close(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Fail unless ``a`` and ``b`` differ by at most ``tolerance``."""
        assert (a - b).abs().max() <= self.tolerance * b.abs().max()


def assembled(engine: Callable[[Context], Engine], model: LoadedModel, call: dict[str, Any]) -> Parts:
    """The parts of a run with three prompts."""
    rollout = {"steps": 5, "group_size": 3, "batch_size": 4, "call": call}
    parts = assemble(model, engine=engine, rollout=rollout, model={"lora": {"rank": 2, "alpha": 4.0}})
    parts.nudge()
    parts.sync(0)
    return parts
