"""The contract of rollout engines, as tests. See :class:`EngineContract`."""

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
from omni_rl_testing.assembly import Assembly, assemble
from omni_rl_testing.toy import toy_model
from omni_rl_testing.trajectories import check_documented, found, noises, replayed


class EngineContract:
    """What a run relies on. Inherit it and supply one fixture.

    ``engine``: what the entry point names: called with a :class:`Context`, it answers an engine.
    ``make_model``: a function that answers the model to sample from; by default the toy pipeline, in this process.
    ``call``: arguments for that pipeline.

    Attributes:
        tolerance: of log-probs and latents against core's own arithmetic, relative to the largest value.
    """

    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture
    def make_model(self) -> Callable[[], LoadedModel]:
        """The toy."""
        return toy_model

    @pytest.fixture
    def call(self) -> dict[str, Any]:
        """None."""
        return {}

    @pytest.fixture
    def parts(
        self, engine: Callable[[Context], Engine], make_model: Callable[[], LoadedModel], call: dict[str, Any]
    ) -> Iterator[Assembly]:
        """A run's parts around the engine, adapters off zero and synchronised; nine samples, at most four at a time."""
        parts = assembled(engine, make_model(), call)
        yield parts
        parts.engine.close()

    def test_hooks_that_it_honours_exist(self, parts: Assembly) -> None:
        """``honours`` decides whether a run that overrides a hook may use the engine.

        Mend ``honours``: the hooks that the engine calls, out of ``omni_rl.contracts.context.ENGINE_HOOKS``.
        """
        assert parts.engine.honours <= ENGINE_HOOKS

    # ------------------------------------------------------------------------------------------------------ requests

    def test_every_request_comes_back_exactly_once(self, parts: Assembly) -> None:
        """Whatever was submitted in how many portions, and nothing twice.

        Mend ``submit`` (it adds to what is waiting) or ``completed`` (it ends when nothing is outstanding).
        """
        requests = parts.requests()
        parts.engine.submit(requests[:4])
        parts.engine.submit(requests[4:])
        samples = list(parts.engine.completed())
        assert [sample.error for sample in samples] == [None] * len(requests)
        assert sorted(sample.request.sample_id for sample in samples) == [r.sample_id for r in requests]
        assert list(parts.engine.completed()) == []

    def test_samples_say_whose_they_are(self, parts: Assembly) -> None:
        """A trajectory under another request's name would be trained on with that request's reward.

        Mend ``completed``: answer with the request as it was submitted, and with its ``uid`` and ``sample_id``.
        """
        asked = [replace(request, uid=request.uid + 40, policy_version=7) for request in parts.requests()]
        parts.sync(7)
        by_id = {request.sample_id: request for request in asked}
        for sample in parts.draw(asked):
            assert sample.request == by_id[sample.request.sample_id]
            for name in ("uid", "sample_id", "policy_version"):
                assert int(found(sample)[name]) == getattr(sample.request, name)

    def test_a_request_without_a_window_is_sampled_too(self, parts: Assembly) -> None:
        """Validation keeps no log-probs; its samples are those of the same key and weights all the same.

        Mend ``completed``: a window of size 0 means plain ODE steps and (0,) log-probs.
        """
        samples = parts.draw([replace(request, window=NO_STEPS) for request in parts.requests()])
        assert {tuple(found(sample)["log_probs"].shape) for sample in samples} == {(0,)}
        assert all(found(sample)["latents", "x", "final"].any() for sample in samples)

    def test_trajectories_are_as_documented(self, parts: Assembly) -> None:
        """Keys, shapes and dtypes of :mod:`omni_rl.contracts.trajectory`, on the CPU, finite; falling sigmas.

        Mend ``completed``: ``omni_rl.sampling.denoise.recorded`` makes a trajectory of a finished state.
        """
        for sample in parts.draw(parts.requests()):
            assert found(sample).batch_size == torch.Size([])
            check_documented(sample)
            assert (found(sample)["sigmas"].diff() < 0).all()

    @pytest.mark.parametrize("stored", ["with stored steps", "without"])
    def test_latents_belong_to_their_request(self, parts: Assembly, stored: str) -> None:
        """A reward must go to the sample that earned it: no request gets the latents of another one.

        Mend ``completed``: pair finished latents with their request by ``sample_id``, not by their place.
        """
        asked = parts.requests()
        if stored == "without":
            asked = [replace(request, window=NO_STEPS) for request in asked]
        samples = parts.draw(asked)
        fault = latents_fault(parts.subject, Probe(asked, samples, trajectory.collate(samples), spare=[]))
        assert fault is None, fault

    def test_media_are_the_final_latents_decoded(self, parts: Assembly) -> None:
        """Rewards see the media, training sees the latents: of every sample, one must be the other, decoded.

        Mend ``completed``: store what ``decode_latents`` returns for the sample's own final latents, quantised with
        ``omni_rl.contracts.media.quantise``.
        """
        fault = media_fault(parts.subject, parts.draw(parts.requests()))
        assert fault is None, fault

    # --------------------------------------------------------------------------------------------------------- draws

    @pytest.mark.parametrize("order", ["together", "reversed", "alone"])
    def test_draws_follow_their_keys(self, parts: Assembly, order: str) -> None:
        """x_T and the noise of every step are those that the key names, in any batch and any order.

        Mend ``completed``: x_T from ``request.initial_key``, noise of step i from ``draw_seed(request.key, stream,
        i)``.
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

    def test_neighbours_do_not_matter(self, parts: Assembly) -> None:
        """A sample drawn alone is the one drawn beside others, up to rounding.

        Mend ``completed``: rows of a batch share nothing but the schedule; mask what is padding.
        """
        together = parts.draw(parts.requests())
        alone = [sample for request in parts.requests() for sample in parts.draw([request])]
        for a, b in zip(together, alone, strict=True):
            for stream, latents in found(a)["latents"].items():
                self.assert_close(latents["final"], found(b)["latents", stream, "final"])

    def test_no_two_samples_are_alike(self, parts: Assembly) -> None:
        """Members of a group share prompt and weights; only their draws tell them apart.

        Mend ``completed``: every member of a group has a key of its own.
        """
        finals = [found(sample)["latents", "x", "final"] for sample in parts.draw(parts.requests())]
        alike = [(i, j) for i, a in enumerate(finals) for j, b in enumerate(finals[:i]) if (a - b).abs().max() < 1e-3]
        assert alike == []

    # ------------------------------------------------------------------------------------------------------- weights

    def test_sync_gives_a_receipt_for_every_weight(self, parts: Assembly) -> None:
        """A weight that does not arrive trains for nothing.

        Mend ``sync``: report where each weight landed, under the name that it was sent by, and the version.
        """
        report = parts.sync(3)
        assert report.policy_version == 3
        assert set(parts.backend.weight_names(parts.engine.takes_weights)) <= report.landed.keys()

    def test_sync_drains_the_weights(self, parts: Assembly) -> None:
        """Handing them out may be a collective of many ranks, which all wait until the last one is taken.

        Mend ``sync``: read ``weights`` to its end before it returns.
        """
        form = parts.engine.takes_weights
        weights = iter(()) if form == "none" else parts.backend.weights("trained", form)
        parts.engine.sync(0, weights)
        assert next(weights, None) is None

    def test_samples_follow_the_weights(self, parts: Assembly) -> None:
        """After a sync, samples change, and their log-probs are those of the trainer's weights.

        Mend ``sync``: what is sampled afterwards uses the trainer's weights, adapters included (scale alpha / rank).
        """
        before = parts.draw(parts.requests())
        parts.nudge(seed=1)
        parts.sync(1)
        after = parts.draw(parts.requests())
        batch = trajectory.collate(after)
        assert not torch.equal(batch["latents", "x", "final"], trajectory.collate(before)["latents", "x", "final"])
        self.assert_close(replayed(parts, batch), batch["log_probs"])

    def test_closing_twice_is_closing(self, parts: Assembly) -> None:
        """A run closes its engine on every way out, sometimes twice, requests waiting or not.

        Mend ``close``: let go of what is there, and drop what waits.
        """
        parts.engine.submit(parts.requests())
        parts.engine.close()
        parts.engine.close()

    def assert_close(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Fail unless ``a`` lies within ``tolerance`` of ``b``."""
        assert (a - b).abs().max() <= self.tolerance * b.abs().max()


def assembled(engine: Callable[[Context], Engine], model: LoadedModel, call: dict[str, Any]) -> Assembly:
    """The parts of a run of three prompts."""
    rollout = {"steps": 5, "group_size": 3, "batch_size": 4, "call": call}
    parts = assemble(model, engine=engine, rollout=rollout, model={"lora": {"rank": 2, "alpha": 4.0}})
    parts.nudge()
    parts.sync(0)
    return parts
