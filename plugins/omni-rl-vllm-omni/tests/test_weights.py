"""Weights reach the engine, whole, merged or as adapters, and the engine says where."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.ci

FULL, MERGED, ADAPTER = (None, {}), (2, {"lora": "merged"}), (2, {"lora": "adapter"})


@pytest.mark.parametrize(("rank", "options"), [FULL, MERGED, ADAPTER], ids=["full", "merged", "adapter"])
def test_samples_follow_the_trainers_weights(pair, rank, options):
    both = pair("QwenImagePipeline", False, rank=rank, **options)
    both.parts.nudge(seed=1)
    report = both.parts.sync(0)
    names = both.parts.backend.weight_names(both.parts.engine.takes_weights)
    assert report.landed.keys() == set(names)
    for ours, own in both.both(both.parts.requests()[:4]):
        assert (ours["latents", "x", "final"] - own["latents", "x", "final"]).abs().max() < 2e-5


def test_fused_weights_name_their_slice(pair):
    both = pair("QwenImagePipeline", False, rank=None)
    landed = both.parts.sync(0).landed
    block = "transformer.transformer_blocks.0.attn"
    places = [landed[f"{block}.to_{name}.weight"] for name in "qkv"]
    assert [place.partition("[")[0] for place in places] == [f"{block}.to_qkv.weight"] * 3
    spans = [tuple(map(int, place.partition("[")[2].rstrip("]").split(":"))) for place in places]
    assert spans[0][0] == 0
    assert [b[0] for b in spans[1:]] == [a[1] for a in spans[:-1]]


def test_merged_and_unmerged_adapters_agree(pair):
    """alpha is twice the rank. Tolerance: what fp32 makes of (W + BA)x against Wx + B(Ax) over five steps."""
    finals = []
    for rank, options in (MERGED, ADAPTER):
        parts = pair("QwenImagePipeline", False, rank=rank, **options).parts
        for name, parameter in parts.model.parameters().items():
            parameter.data = torch.full_like(parameter, 0.02 if "lora_A" in name else 0.03)
        parts.sync(0)
        finals.append([s.trajectory["latents", "x", "final"] for s in parts.draw(parts.requests()[:2])])
    for merged, adapter in zip(*finals, strict=True):
        assert (merged - adapter).abs().max() < 2e-5 * adapter.abs().max()
