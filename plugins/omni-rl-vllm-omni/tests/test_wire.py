"""What crosses the process border comes back as it went in."""

from __future__ import annotations

import torch

from omni_rl.requests import NoiseKey, Request, Sde, Window
from omni_rl.types import SigmaTable
from omni_rl_vllm_omni.wire import KEY, Asked, asked_in, chunks, packed, unpacked

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
    asked = Asked(REQUEST, {"x": (4, 12)}, SigmaTable(sigmas[:3] * 1000, sigmas))
    back = asked_in({"prompt": "", KEY: asked.to_json()})
    assert back is not None
    assert back.request == REQUEST
    assert back.shapes == asked.shapes
    assert torch.equal(back.table.sigmas, sigmas)
    assert torch.equal(back.table.timesteps, sigmas[:3] * 1000)


def test_a_prompt_of_upstreams_own_holds_none():
    assert asked_in("dummy run") is None
    assert asked_in({"prompt": "dummy run"}) is None


def test_tensors_travel_as_safetensors():
    tensors = {"a/b": torch.randn(3, 2).T, "c": torch.arange(3), "d": torch.tensor(True)}
    back = unpacked(packed(tensors))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


def test_chunks_hold_everything_once_in_order():
    weights = {str(i): torch.zeros(n) for i, n in enumerate((1, 2, 50, 3, 4))}  # 4 bytes each
    parts = list(chunks(weights, most=16))
    assert [list(part) for part in parts] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert [name for part in parts for name in part] == list(weights)
