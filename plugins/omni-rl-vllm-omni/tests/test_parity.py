"""The real engine against the embedded one, for the same keys: what differs is the order of a few additions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rl.contracts import trajectory
from omni_rl.gate.model_rows import model_rows
from omni_rl.gate.weight_rows import weight_rows
from omni_rl.schedulers.randomness import INITIAL, draw_seed, randn
from omni_rl.schedulers.types import NoiseKey
from omni_rl_testing.parts import drawn
from omni_rl_testing.trajectories import replayed

pytestmark = pytest.mark.ci

CASES = [  # those of the full tier take the same way through the engine as another one
    pytest.param(("QwenImagePipeline", {"step_execution": "required"}), id="stepwise"),
    pytest.param(("QwenImagePipeline", {"step_execution": "off"}), id="phases", marks=pytest.mark.full),
    pytest.param(("StableDiffusion3Pipeline", {}), id="sd3"),
    pytest.param(("FluxPipeline", {}), id="flux", marks=pytest.mark.full),
    pytest.param(("WanPipeline", {}), id="wan", marks=pytest.mark.full),
    pytest.param(("SanaPipeline", {}), id="diffusers"),
]
EXACT = ("timesteps", "sigmas", "uid", "sample_id", "policy_version")


@pytest.fixture(scope="module", params=CASES)
def both(request, pair):
    """An architecture in one of its modes."""
    architecture, options = request.param
    return pair(architecture, **options)


def gap(a, b) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def test_samples_equal_the_embedded_engines(both):
    """Schedule and x_T to the bit, latents to rounding, log-probs to 1e-5, pixels to a level."""
    for ours, own in both.both(both.parts.requests()):
        assert set(ours.keys(include_nested=True)) == set(own.keys(include_nested=True))
        for name in EXACT:
            assert torch.equal(ours[name], own[name]), name
        for name, value in own.items():
            if name.startswith(("prompt", "negative")):
                assert torch.equal(ours[name], value), name
        assert gap(ours["latents", "x", "all"], own["latents", "x", "all"]) < 2e-6
        assert gap(ours["latents", "x", "final"], own["latents", "x", "final"]) < 4e-6
        assert (ours["log_probs"] - own["log_probs"]).abs().max() < 1e-6
        for kind, seen in own["media"].items():
            assert (ours["media", kind].short() - seen.short()).abs().max() <= 1


def test_stored_log_probs_replay(both):
    """In the trainer, within ten times what another batch composition changes, and 1e-6."""
    batch = trajectory.collate(both.parts.draw(both.parts.requests()))
    assert (replayed(both.parts, batch) - batch["log_probs"]).abs().max() < 1e-6


def test_the_initial_noise_is_the_keys(both):
    requests = both.parts.requests()[:3]
    shape = both.parts.draw(requests)[0].trajectory["latents", "x", "final"].shape
    for sample in both.parts.draw(requests):
        named = randn(draw_seed(sample.request.initial_key, "x", INITIAL), shape)
        assert torch.equal(sample.trajectory["latents", "x", "all"][0], named)


def test_the_gate_is_green(both):
    run, probe = both.parts.subject, drawn(both.parts)
    rows = [*model_rows(run, probe), *weight_rows(run, probe)]
    assert [(row.name, row.detail) for row in rows if row.verdict == "fail"] == []


def mixed(parts, together):
    """Requests of 5 and 200 tokens and of different schedules."""
    for number, request in enumerate(parts.requests()[:together]):
        prompt = "hello " * (100 if number % 2 else 2)
        key = NoiseKey(1, "mode", 0, number, 0)
        yield replace(request, prompt=prompt, key=key, initial_key=key, steps=4 + number % 3, sample_id=number)


def test_stepwise_equals_whole_requests(pair):
    """Alone, by three and by eight, with requests that arrive while others are under way."""
    found = {}
    for mode in ("required", "off"):
        parts = pair("QwenImagePipeline", step_execution=mode).parts
        for together in (1, 3, 8):
            requests = list(mixed(parts, together))
            parts.engine.submit(requests[:2])
            first = parts.engine.completed()
            samples = [next(first)]
            parts.engine.submit(requests[2:])
            samples += [*first, *parts.engine.completed()]
            for sample in samples:
                found[mode, together, sample.request.sample_id] = sample.trajectory["log_probs"]
    assert len(found) == 2 * (1 + 3 + 8)
    for (mode, together, number), log_probs in found.items():
        other = found["off" if mode == "required" else "required", together, number]
        assert (log_probs - other).abs().max() < 1e-6, (mode, together, number)
