"""The contract of rollout engines, as tests. See :class:`EngineContract`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from tensordict import TensorDict

from omni_rl import trajectory
from omni_rl.engines.base import ENGINE_HOOKS, Context
from omni_rl.model.loaded import LoadedModel
from omni_rl.randomness import INITIAL, draw_seed, randn
from omni_rl.requests import NO_STEPS, Request
from omni_rl.testing.assembly import Assembly, assemble
from omni_rl.testing.toy import toy_model
from omni_rl.types import Engine, Sample

FLOAT, WHOLE = torch.float32, torch.int64
MEDIA = {"image": (torch.uint8, 3), "video": (torch.uint8, 4), "audio": (FLOAT, 2)}


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
        rollout = {"steps": 5, "group_size": 3, "batch_size": 4, "call": call}
        parts = assemble(make_model(), engine=engine, rollout=rollout, model={"lora": {"rank": 2, "alpha": 4.0}})
        parts.nudge()
        parts.engine.sync(0)
        yield parts
        parts.engine.close()

    def test_hooks_that_it_honours_exist(self, parts: Assembly) -> None:
        """``honours`` decides whether a run that overrides a hook may use the engine."""
        assert parts.engine.honours <= ENGINE_HOOKS

    # ------------------------------------------------------------------------------------------------------ requests

    def test_every_request_comes_back_exactly_once(self, parts: Assembly) -> None:
        """Whatever was submitted in how many portions, and nothing twice."""
        requests = parts.requests()
        parts.engine.submit(requests[:4])
        parts.engine.submit(requests[4:])
        samples = list(parts.engine.completed())
        assert [sample.error for sample in samples] == [None] * len(requests)
        assert sorted(sample.request.sample_id for sample in samples) == [r.sample_id for r in requests]
        assert list(parts.engine.completed()) == []

    def test_samples_say_whose_they_are(self, parts: Assembly) -> None:
        """A trajectory under another request's name would be trained on with that request's reward."""
        asked = [replace(request, uid=request.uid + 40, policy_version=7) for request in parts.requests()]
        parts.engine.sync(7)
        by_id = {request.sample_id: request for request in asked}
        for sample in parts.draw(asked):
            assert sample.request == by_id[sample.request.sample_id]
            for name in ("uid", "sample_id", "policy_version"):
                assert int(found(sample)[name]) == getattr(sample.request, name)

    def test_a_request_without_a_window_is_sampled_too(self, parts: Assembly) -> None:
        """Validation keeps no log-probs; its samples are those of the same key and weights all the same."""
        samples = parts.draw([replace(request, window=NO_STEPS) for request in parts.requests()])
        assert {tuple(found(sample)["log_probs"].shape) for sample in samples} == {(0,)}
        assert all(found(sample)["latents", "x", "final"].any() for sample in samples)

    def test_trajectories_are_as_documented(self, parts: Assembly) -> None:
        """Keys, shapes and dtypes of :mod:`omni_rl.trajectory`, on the CPU, finite; falling sigmas."""
        for sample in parts.draw(parts.requests()):
            assert found(sample).batch_size == torch.Size([])
            check_documented(sample)
            assert (found(sample)["sigmas"].diff() < 0).all()

    # --------------------------------------------------------------------------------------------------------- draws

    @pytest.mark.parametrize("order", ["together", "reversed", "alone"])
    def test_draws_follow_their_keys(self, parts: Assembly, order: str) -> None:
        """x_T and the noise of every step are those that the key names, in any batch and any order."""
        requests = parts.requests()
        portions = {"together": [requests], "reversed": [requests[::-1]], "alone": [[r] for r in requests]}[order]
        samples = [sample for portion in portions for sample in parts.draw(portion)]
        for sample in samples:
            for stream, latents in found(sample)["latents"].items() if sample.request.window.start == 0 else ():
                named = randn(draw_seed(sample.request.initial_key, stream, INITIAL), latents["final"].shape)
                assert torch.equal(latents["all"][0], named)
        for taken, named in noises(parts, samples):
            torch.testing.assert_close(taken, named, rtol=0, atol=100 * self.tolerance)

    def test_neighbours_do_not_matter(self, parts: Assembly) -> None:
        """A sample drawn alone is the one drawn beside others, up to rounding."""
        together = parts.draw(parts.requests())
        alone = [sample for request in parts.requests() for sample in parts.draw([request])]
        for a, b in zip(together, alone, strict=True):
            for stream, latents in found(a)["latents"].items():
                self.assert_close(latents["final"], found(b)["latents", stream, "final"])

    def test_no_two_samples_are_alike(self, parts: Assembly) -> None:
        """Members of a group share prompt and weights; only their draws tell them apart."""
        finals = [found(sample)["latents", "x", "final"] for sample in parts.draw(parts.requests())]
        alike = [(i, j) for i, a in enumerate(finals) for j, b in enumerate(finals[:i]) if (a - b).abs().max() < 1e-3]
        assert alike == []

    # ------------------------------------------------------------------------------------------------------- weights

    def test_sync_gives_a_receipt_for_every_weight(self, parts: Assembly) -> None:
        """A weight that does not arrive trains for nothing."""
        report = parts.engine.sync(3)
        assert report.policy_version == 3
        assert parts.model.parameters().keys() <= report.landed.keys()

    def test_samples_follow_the_weights(self, parts: Assembly) -> None:
        """After a sync, samples change, and their log-probs are those of the trainer's weights."""
        before = parts.draw(parts.requests())
        parts.nudge(seed=1)
        parts.engine.sync(1)
        after = parts.draw(parts.requests())
        batch = trajectory.collate(after)
        assert not torch.equal(batch["latents", "x", "final"], trajectory.collate(before)["latents", "x", "final"])
        for step in range(batch["timesteps"].shape[1]):
            with torch.no_grad():
                replayed = parts.backend.policy.evaluate(batch, step).log_prob.cpu()
            self.assert_close(replayed, batch["log_probs"][:, step])

    def test_closing_twice_is_closing(self, parts: Assembly) -> None:
        """A run closes its engine on every way out, sometimes twice, requests waiting or not."""
        parts.engine.submit(parts.requests())
        parts.engine.close()
        parts.engine.close()

    def assert_close(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Fail unless ``a`` lies within ``tolerance`` of ``b``."""
        assert (a - b).abs().max() <= self.tolerance * b.abs().max()


def found(sample: Sample) -> TensorDict:
    """The trajectory that a sound engine returns."""
    assert sample.trajectory is not None, sample.error
    return sample.trajectory


def noises(parts: Assembly, samples: Sequence[Sample]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Per stored step and stream: the noise in the stored latents by the policy's transition, and what keys name."""
    batch = trajectory.collate(samples)
    for step in range(batch["timesteps"].shape[1]):
        with torch.no_grad():
            transitions = parts.backend.policy.evaluate(batch, step).transitions
        for stream, moved in transitions.items():
            following = batch["latents", stream, "all"][:, step + 1].to(moved.mean.device)
            named = [_named(sample.request, stream, step, following.shape[1:]) for sample in samples]
            yield ((following - moved.mean) / moved.std).cpu(), torch.stack(named)


def _named(request: Request, stream: str, step: int, shape: Sequence[int]) -> torch.Tensor:
    return randn(draw_seed(request.key, stream, request.window.start + step), shape)


def check_documented(sample: Sample) -> None:
    """Fail unless the trajectory has the keys, shapes and dtypes of :mod:`omni_rl.trajectory`."""
    rows, steps = found(sample), sample.request.window.size
    fixed = {
        "log_probs": (FLOAT, (steps,)),
        "timesteps": (FLOAT, (steps,)),
        "sigmas": (FLOAT, (steps + 1,)),
        **dict.fromkeys(("uid", "sample_id", "policy_version"), (WHOLE, ())),
    }
    assert {name: (rows[name].dtype, tuple(rows[name].shape)) for name in fixed} == fixed
    for stream, latents in rows["latents"].items():
        assert latents["all"].shape == (steps + 1, *latents["final"].shape), stream
    others = {"latents", "mask", "condition", "call", "media", *trajectory.PROMPT_KEYS}
    assert set(rows.keys()) <= {*fixed, *others}
    for key, value in rows.items(include_nested=True, leaves_only=True):
        floating = torch.float64 if "call" in key else FLOAT
        assert value.device.type == "cpu", key
        assert value.dtype == floating or not value.is_floating_point(), key
        assert value.isfinite().all(), key
    for kind, media in rows.get("media", {}).items():
        assert (media.dtype, media.ndim) == MEDIA[kind], kind
