"""In bf16 the engine rounds otherwise than the trainer at every layer: the gate tells that from a fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rl.gate.replay_rows import replay_rows
from omni_rl.gate.sampler_rows import sampler_rows
from omni_rl_testing.parts import drawn
from omni_rl_vllm_omni import engine as driver

pytestmark = pytest.mark.ci


def red(parts) -> dict[str, str]:
    run, probe = parts.subject, drawn(parts)
    rows = [*replay_rows(run, probe), *sampler_rows(run, probe)]
    return {row.name: row.detail for row in rows if row.verdict == "fail"}


@pytest.mark.parametrize(
    "architecture", ["QwenImagePipeline", pytest.param("StableDiffusion3Pipeline", marks=pytest.mark.full)]
)
def test_rounding_is_no_fault_and_another_guidance_is(pair, monkeypatch, architecture):
    parts = pair(architecture, precision="bf16").parts
    assert red(parts) == {}
    message = driver.VllmOmniEngine._message

    def guided_otherwise(self, prepared):
        request = prepared.asked.request
        name = "true_cfg_scale" if "true_cfg_scale" in request.call else "guidance_scale"
        call = {**request.call, name: 10 * request.call[name]}  # tiny random models hardly follow their text
        return message(self, replace(prepared, asked=replace(prepared.asked, request=replace(request, call=call))))

    monkeypatch.setattr(driver.VllmOmniEngine, "_message", guided_otherwise)
    assert "for the same keys, the engine's samples differ" in red(parts)["sampler"]
