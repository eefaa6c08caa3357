"""Contract tests of model plugins. See :class:`ModelContract`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from omni_rl.config.plugin_defaults import defaults_of
from omni_rl.contracts import trajectory
from omni_rl.contracts.media import RATE
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams, Tensors, lossless
from omni_rl.data.media_files import load
from omni_rl.errors import DataError
from omni_rl.gate.model_rows import Oracle
from omni_rl.gate.probe import Probe, own_loop
from omni_rl.gate.weight_rows import weight_rows
from omni_rl.model.encoding import joined
from omni_rl.model.loading import load_model
from omni_rl.plugins.contract import Layer
from omni_rl.universal import hooks as universal
from omni_rl_testing.parts import PROMPTS, Parts, assemble, drawn
from omni_rl_testing.trajectories import final, replayed

LISTING = "import sys; from omni_rl.plugins.listing import rows; rows(); print([m for m in {!r} if m in sys.modules])"
GROUP_SIZE = 2
Media = Mapping[str, str | list[str]]
LOUD = 10.0


class Inputs:
    """Default inputs of the suites that sample with a model plugin."""

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls) -> dict[str, Any]:
        """No arguments besides the plugin's defaults."""
        return {}

    @pytest.fixture(scope="module")
    @classmethod
    def prompts(cls) -> Sequence[str]:
        """Three."""
        return PROMPTS

    @pytest.fixture(scope="module")
    @classmethod
    def media(cls) -> Sequence[Media]:
        """No media: the pipeline is conditioned on text only."""
        return ()


class ModelContract(Inputs):
    """Checks that a run can use a model plugin. Inherit it and supply two fixtures of scope ``module`` or wider.

    ``pipeline_folder``: a tiny random pipeline of the plugin's architecture, written by ``save_pretrained``. Weights
    that are initialised to zero need other values, because a model that always returns 0 passes with every plugin.

    ``plugin``: the plugin's module; None tests the universal adapter with this pipeline.

    Optional fixtures:

    ``call``: arguments for the pipeline's ``__call__`` besides the plugin's defaults, above all small sizes.

    ``prompts``: three or more prompts of different lengths.

    ``media``: the files of each prompt, as in ``Request.media``, of equal sizes.

    Attributes:
        rounding: largest allowed difference between batch compositions, relative to the largest value.
        loop_rounding: largest allowed difference between core's loop and the pipeline's, relative to the largest value.
    """

    rounding: ClassVar[float] = 1e-5
    loop_rounding: ClassVar[float] = 2e-6

    @pytest.fixture(scope="module")
    @classmethod
    def parts(
        cls,
        pipeline_folder: Path,
        plugin: ModuleType | None,
        call: dict[str, Any],
        prompts: Sequence[str],
        media: Sequence[Media],
    ) -> Parts:
        """The parts of a run on the CPU in fp32, with LoRA at the plugin's targets, changed so that B is not 0."""
        return assembled(pipeline_folder, plugin, call, prompts, media)

    @pytest.fixture(scope="module")
    @classmethod
    def probe(cls, parts: Parts) -> Probe:
        """The samples of one iteration."""
        return drawn(parts)

    @pytest.fixture(scope="module")
    @classmethod
    def oracle(cls, parts: Parts, probe: Probe) -> Oracle:
        """The diffusers pipeline's own results for the same prompts."""
        return Oracle(parts.subject, probe)

    # -------------------------------------------------------------------------------------------- the upstream pipeline

    def test_embeddings_are_the_pipelines_own(self, parts: Parts, oracle: Oracle) -> None:
        """With another template, layer or padding, a run would train a model that nobody uses.

        Fix ``tokenize`` or ``encode_prompt``: compare with the pipeline's ``encode_prompt``, one prompt at a time.
        """
        _, state = own_loop(parts.subject, oracle.requests, noise=False)
        own = oracle.conditioning
        if not own.keys() & state.conditioning.keys():
            pytest.skip("the plugin stores text in its own format; the check without noise tests it")
        ours = {n: _as_wide(state.conditioning[n], v) for n, v in own.items() if n in state.conditioning}
        self.assert_close(_tokens(ours), _tokens({n: own[n] for n in ours}), self.rounding)

    def test_schedule_is_the_pipelines_own(self, probe: Probe, oracle: Oracle) -> None:
        """Timesteps and sigmas must be equal to the bit, because a missing shift changes every log-prob.

        Fix ``set_timesteps``: call the pipeline's own scheduler as its ``__call__`` does, with its mu or shift.
        """
        own = oracle.table
        assert len(own.timesteps) == oracle.requests[0].steps
        for request, row in zip(probe.requests, probe.batch, strict=True):
            start, stop = request.window.start, request.window.stop
            assert torch.equal(row["timesteps"], own.timesteps[start:stop])
            assert torch.equal(row["sigmas"], own.sigmas[start : stop + 1])

    def test_without_noise_samples_are_the_pipelines_own(self, parts: Parts, oracle: Oracle) -> None:
        """Without SDE noise, the pipeline's own loop with Euler steps gives the same latents, so guidance, packing and
        sign are right.

        Fix ``predict`` (sign, unit of t, guidance), ``prepare_latents`` (packing) or ``prepare_condition``.
        """
        start, state = own_loop(parts.subject, oracle.requests, noise=False)
        self.assert_close(state.x, oracle.beside(start, state), self.loop_rounding)

    def test_decoding_is_the_pipelines_own(
        self, parts: Parts, probe: Probe, oracle: Oracle, call: Mapping[str, Any]
    ) -> None:
        """Media have the requested size; pixels are in [0, 1] and audio in [-1, 1], also for latents with large values.

        Fix ``decode_latents``: unpacking, the VAE's scale and shift, clamping to the range of the medium.
        """
        batch, wanted = probe.batch[:2], probe.requests[0].call
        latents = {name: LOUD * value for name, value in final(batch).items()}
        given: dict[str, Any] = {"model": parts.model, "latents": latents, "call": wanted}
        conditioning = trajectory.conditioning_of(batch)
        with torch.no_grad():
            ours = parts.hooks.decode_latents(**given, conditioning=conditioning)
            taken = _as_taken(parts.model, oracle, probe.requests[:2], conditioning)
            own = universal.decode_latents(**given, conditioning=taken)
        self.assert_close(ours, own, self.rounding)
        for kind, media in ours.items():
            if kind.endswith(RATE):
                continue
            assert media.min() >= (-1 if kind == "audio" else 0)
            assert media.max() <= 1
            for name, axis in (("height", -2), ("width", -1)):
                assert kind == "audio" or media.shape[axis] == call.get(name, media.shape[axis])

    # ----------------------------------------------------------------------------------------------- replay and batches

    def test_log_probs_replay_to_the_bit(self, parts: Parts, probe: Probe) -> None:
        """The trainer's log-prob of a stored step equals the stored one, so the ratio starts at exactly 1.

        Fix ``predict``: it must give equal results in rollout and replay. No state between calls, no dropout, no
        randomness.
        """
        assert torch.equal(replayed(parts, probe.batch), probe.batch["log_probs"])

    def test_replay_calls_no_encoder(self, parts: Parts, probe: Probe) -> None:
        """Text and images are encoded once per trajectory; encoding them again in every update would double its cost.

        Fix ``predict``: use the embeddings in ``conditioning``, which ``encode_prompt`` and ``prepare_condition``
        return.
        """
        before = dict(parts.model.counts)
        replayed(parts, probe.batch)
        assert parts.model.counts == before

    def test_neighbours_do_not_matter(self, parts: Parts, probe: Probe) -> None:
        """A batch of n samples equals n batches of one: padding and position ids of a longer prompt change nothing.

        Fix ``encode_prompt`` (return a mask of the padding) or ``predict`` (pass that mask to the denoiser).
        """
        requests = probe.requests[::GROUP_SIZE]  # one sample of each prompt: a batch holds several prompts
        alone = trajectory.collate([sample for request in requests for sample in parts.draw([request])])
        together = trajectory.collate(parts.draw(requests))
        self.assert_close(final(together), final(alone), self.rounding)
        self.assert_close({"": together["log_probs"]}, {"": alone["log_probs"]}, self.rounding)

    def test_every_row_may_have_its_own_timestep(self, parts: Parts, probe: Probe) -> None:
        """Velocities of rows at different t, also at t between the timesteps of the schedule, equal those of single
        calls.

        Fix ``predict``: t is (B,); use each row's own t, and do not look t up in a table.
        """
        batch, call, policy = probe.batch[:4], probe.requests[0].call, parts.backend.policy
        x, conditioning = final(batch), trajectory.conditioning_of(batch)
        t = torch.tensor([311.0, 702.5, 311.0, 950.25])

        def predict(*rows: int) -> Streams:
            taken = {n: v[list(rows)] for n, v in conditioning.items()}
            with torch.no_grad():
                return policy.predict({n: v[list(rows)] for n, v in x.items()}, t[list(rows)], taken, call)

        together, alone = predict(0, 1, 2, 3), [predict(row) for row in range(4)]
        self.assert_close(together, {n: torch.cat([each[n] for each in alone]) for n in together}, self.rounding)
        assert all(v.isfinite().all() and v.any() for v in together.values())

    def test_velocities_are_the_pipelines_own(self, parts: Parts, probe: Probe, oracle: Oracle) -> None:
        """Velocities equal those of the universal adapter, at timesteps that differ per row, also between those of the
        schedule.

        The predicted data (x - sigma * velocity) are compared: a pipeline that applies guidance to data divides by
        sigma, which makes rounding larger.

        Fix ``predict``: guidance, its norm and the timestep's unit as in the pipeline's loop, for every timestep.
        """
        batch, t = probe.batch[:4], torch.tensor([311.0, 702.5, 12.5, 950.25])
        x, sigma = final(batch), t / parts.model.pipe.scheduler.config.num_train_timesteps
        given: dict[str, Any] = {"model": parts.model, "x": x, "t": t, "call": probe.requests[0].call}
        conditioning = trajectory.conditioning_of(batch)
        with torch.no_grad():
            ours = parts.hooks.predict(**given, conditioning=conditioning, step=None)
            taken = _as_taken(parts.model, oracle, probe.requests[:4], conditioning)
            own = universal.predict(**given, conditioning=taken)
        self.assert_close(_data(x, sigma, ours), _data(x, sigma, own), self.rounding)

    # ------------------------------------------------------------------------------------------------- weights and text

    def test_weights_get_gradients_and_reach_samples(self, parts: Parts, probe: Probe) -> None:
        """Every adapter that the velocity depends on gets a gradient, no frozen weight does, and samples follow the
        weights.

        Fix ``predict``: call the modules of ``model.pipe`` themselves, without ``no_grad`` and without copies or casts
        of weights.
        """
        assert [f"{r.name}: {r.detail}" for r in weight_rows(parts.subject, probe) if r.verdict == "fail"] == []

    def test_suggested_lora_targets_exist(self, parts: Parts, plugin: ModuleType | None) -> None:
        """Every suggested target matches a module of the denoiser; otherwise fewer weights are trained than the author
        expects.

        Fix ``defaults``: use suffixes of names in the denoiser's ``named_modules()``, such as "to_q".
        """
        suggested = defaults_of(Layer("model", plugin, "plugin"), parts.model.architecture) if plugin else {}
        targets = suggested.get("model", {}).get("lora", {}).get("targets", [])
        modules = [name for denoiser in parts.model.denoisers.values() for name, _ in denoiser.named_modules()]
        missing = [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in modules)]
        assert targets == "all-linear" or missing == []

    def test_a_prompt_that_is_too_long_is_refused(self, parts: Parts) -> None:
        """A plugin that tokenizes raises DataError for a prompt over the limit, because words that are cut off have no
        effect.

        Fix ``tokenize``: tokenize without truncation, count the tokens, and raise DataError over the limit.
        """
        if not parts.hooks.tokenize(model=parts.model, prompts=["a"], call={}):
            pytest.skip("the pipeline tokenizes, not the plugin")
        with pytest.raises(DataError):
            parts.hooks.tokenize(model=parts.model, prompts=["a", " ".join(["sign"] * 20_000)], call={})

    def test_listing_plugins_imports_neither_torch_nor_the_plugin(self, plugin: ModuleType | None) -> None:
        """``omni-rl plugins`` reads only metadata.

        Fix the package: Python must not import it at start-up (``.pth`` files, ``sitecustomize``).
        """
        code = LISTING.format(["torch", *([plugin.__name__] if plugin else [])])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

    def assert_close(self, found: Streams, expected: Streams, tolerance: float) -> None:
        """Fail unless the tensors agree within ``tolerance``, relative to the largest value of each."""
        assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in expected.items()}
        gaps = {n: _gap(found[n].double(), v.double()) for n, v in expected.items()}
        assert max(gaps.values()) <= tolerance, gaps


def _as_wide(found: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Remove the padding of longer prompts: with media, the oracle's batch has only one prompt."""
    return found if found.ndim < 2 or found[:, own.shape[1] :].any() else found[:, : own.shape[1]]


def _tokens(conditioning: Tensors) -> Tensors:
    """Without the padding that masks name: pipelines may pad on either side, and to any length."""
    masks = {n: v for n, v in conditioning.items() if n.endswith("mask") and v.ndim == 2}

    def kept(name: str, value: torch.Tensor) -> torch.Tensor:
        if name in masks:
            return value.sum(1)
        if value.ndim < 3:
            return value
        rows = value.movedim(-2, 1)  # (B, L, ...)
        own = [n for n, m in masks.items() if m.shape == rows.shape[:2] and _is_negative(n) == _is_negative(name)]
        return rows[masks[own[0]].bool()] if len(own) == 1 else value

    return {name: kept(name, value) for name, value in conditioning.items()}


def _is_negative(name: str) -> bool:
    return name.startswith("negative")


def _gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def _data(x: Streams, sigma: torch.Tensor, velocity: Streams) -> Streams:
    """The predicted data x - sigma * velocity, for sigma (B,)."""
    return {n: v - sigma.view(-1, *[1] * (v.ndim - 1)) * velocity[n] for n, v in x.items()}


def _as_taken(model: LoadedModel, oracle: Oracle, requests: Sequence[Request], kept: Tensors) -> Tensors:
    """Conditioning of the requests in the pipeline's format: the plugin's conditioning if it has that format."""
    if oracle.conditioning.keys() & kept.keys():
        return kept
    texts = [
        universal.encode_prompt(
            model=model,
            prompts=[request.prompt],
            negative_prompts=None if request.negative_prompt is None else [request.negative_prompt],
            call={**request.call, **load(request.media)},
        )
        for request in requests
    ]
    own = joined([{n: lossless(v) for n, v in text.items()} for text in texts])
    return own | universal.prepare_condition(model=model, requests=requests)


def assembled(
    folder: Path, plugin: object, call: dict[str, Any], prompts: Sequence[str], media: Sequence[Media] = ()
) -> Parts:
    """The parts of a run with the pipeline in ``folder``; one batch holds the samples of one prompt."""
    model = load_model(folder, device=torch.device("cpu"), precision="fp32", full=False)
    rollout = {"group_size": GROUP_SIZE, "batch_size": GROUP_SIZE, "call": call}
    lora = {"lora": {"rank": 2, "alpha": 4.0}}
    parts = assemble(model, plugin=plugin, prompts=prompts, media=media, rollout=rollout, model=lora)
    parts.nudge()
    return parts
