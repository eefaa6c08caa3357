"""A message comes back as it went in."""

from __future__ import annotations

import torch

from omni_rl.contracts.requests import Request, Sde, Window
from omni_rl.contracts.types import SigmaTable
from omni_rl.sampling.remote.prepared import Asked
from omni_rl.schedulers.types import NoiseKey
from omni_rl_vllm_omni.wire import KEY, asked_in

REQUEST = Request(
    uid=3,
    sample_id=7,
    prompt="a sign",
    key=NoiseKey(1, "rollout", 2, 3, 4),
    initial_key=NoiseKey(1, "rollout", 2, 3, -1),
    steps=3,
    window=Window(1, 2),
    sde=Sde("cps", 0.3),
    metadata={"text": "42"},
    call={"height": 32, "true_cfg_scale": 1.1},
    policy_version=5,
)


def test_a_message_keeps_the_schedule_to_the_bit():
    sigmas = torch.rand(4).sort(descending=True).values
    asked = Asked(REQUEST, {"x": (4, 12)}, {"x": SigmaTable(sigmas[:3] * 1000, sigmas)})
    back = asked_in({"prompt": "", KEY: asked.to_json()})
    assert back is not None
    assert back.request == REQUEST
    assert back.shapes == asked.shapes
    assert torch.equal(back.table.sigmas, sigmas)
    assert torch.equal(back.table.timesteps, sigmas[:3] * 1000)


def test_a_prompt_of_upstreams_own_holds_none():
    assert asked_in("dummy run") is None
    assert asked_in({"prompt": "dummy run"}) is None
