"""Faults between the driver and the engine, each of which has cost somebody a run: the gate names every one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rl.contracts.types import SigmaTable
from omni_rl.errors import RunError
from omni_rl.gate.model_rows import model_rows
from omni_rl.gate.sampler_rows import sampler_rows
from omni_rl.gate.weight_rows import weight_rows
from omni_rl_testing.parts import drawn
from omni_rl_vllm_omni import engine as driver

pytestmark = pytest.mark.ci


@pytest.fixture
def parts(pair):
    """Adapters, unmerged, off zero; guidance on."""
    return pair("QwenImagePipeline", step_execution="required", lora="adapter").parts


def red(parts) -> dict[str, str]:
    """Failed rows of the gate, and what they say."""
    run, probe = parts.subject, drawn(parts)
    rows = [*model_rows(run, probe), *sampler_rows(run, probe), *weight_rows(run, probe)]
    return {row.name: row.detail for row in rows if row.verdict == "fail"}


def test_without_a_fault_nothing_is_red(parts):
    assert red(parts) == {}


def changing(monkeypatch, change):
    """Have the engine send something else than it prepared."""

    def changed(model, hooks, requests):
        return [replace(p, asked=change(p.asked)) for p in driver_prepare(model, hooks, requests)]

    driver_prepare = driver.prepare
    monkeypatch.setattr(driver, "prepare", changed)


def test_sigmas_shifted_by_a_percent(parts, monkeypatch):
    def shifted(asked):
        sigmas = torch.cat([asked.table.sigmas[:1], asked.table.sigmas[1:] * 1.01])
        return replace(asked, tables={"x": SigmaTable(asked.table.timesteps, sigmas)})

    changing(monkeypatch, shifted)
    found = red(parts)
    assert "the samples' stored sigmas or timesteps are not those of their window" in found["schedule"]
    assert "for the same keys, the engine's samples differ" in found["sampler"]


def test_another_guidance_scale(parts, monkeypatch):
    """Not only the gate: every sample comes with the arguments that it was drawn with."""
    message = driver.VllmOmniEngine._message

    def other(self, prepared):
        asked = prepared.asked
        call = {**asked.request.call, "true_cfg_scale": 3.0}
        return message(self, replace(prepared, asked=replace(asked, request=replace(asked.request, call=call))))

    monkeypatch.setattr(driver.VllmOmniEngine, "_message", other)
    with pytest.raises(RunError, match=r"a sample with true_cfg_scale 3\.0 for the request with true_cfg_scale 4\.0"):
        red(parts)


def test_a_template_with_another_token(parts, monkeypatch):
    def other(model, hooks, requests):
        found = prepare(model, hooks, [replace(r, prompt=f"{r.prompt} a") for r in requests])
        return [replace(p, asked=replace(p.asked, request=r)) for p, r in zip(found, requests, strict=True)]

    prepare = driver.prepare
    monkeypatch.setattr(driver, "prepare", other)
    assert "sampled with other text" in red(parts)["sampler"]


def test_one_of_three_fused_adapters_dropped(parts, monkeypatch):
    """As at the start of a run, where every B is 0 and no sample can tell."""

    def lossy(copy, form):
        lost = "transformer.transformer_blocks.0.attn.to_k.lora_B.weight"
        for name, value in weights(copy, form):
            yield name, torch.zeros_like(value) if name == lost else value

    kept = {name: p.data for name, p in parts.model.parameters().items()}
    for name, parameter in parts.model.parameters().items():
        parameter.data = torch.zeros_like(parameter) if "lora_B" in name else parameter.data
    weights = parts.backend.weights
    monkeypatch.setattr(parts.backend, "weights", lossy)
    parts.sync(0)
    found = red(parts)
    for name, parameter in parts.model.parameters().items():
        parameter.data = kept[name]
    assert found.keys() == {"weights"}
    assert "some weights do not reach the engine" in found["weights"]
