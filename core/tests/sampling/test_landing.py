"""Where a weight lands, on a pipeline that fuses and renames as upstream's do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omni_rl.sampling.remote.landing import Landing, locate


class Fusing(nn.Module):
    """``to_q``, ``to_k`` and ``to_v`` in one parameter; ``to_out.0`` under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Module()
        blocks = [nn.ModuleDict({"qkv": nn.Linear(4, 12), "to_out": nn.Linear(4, 4)}) for _ in range(2)]
        self.transformer.blocks = nn.ModuleList(blocks)
        self.transformer.head = nn.Linear(4, 4)

    def load_weights(self, weights):
        for name, weight in weights:
            _, _, block, layer, *rest = name.split(".")
            if block == "head":
                self.transformer.head.weight.data.copy_(weight)
                continue
            if layer == "unknown":
                continue
            modules = self.transformer.blocks[int(block)]
            target = getattr(modules["to_out" if layer == "to_out" else "qkv"], rest[-1]).data
            first = {"to_q": 0, "to_k": 4, "to_v": 8, "to_out": 0}[layer]
            target[first : first + 4].copy_(weight)
        return set()


@pytest.mark.parametrize(
    ("name", "shape", "landing"),
    [
        ("transformer.blocks.1.to_k.weight", (4, 4), Landing("transformer.blocks.1.qkv.weight", 4, 8)),
        ("transformer.blocks.0.to_v.bias", (4,), Landing("transformer.blocks.0.qkv.bias", 8, 12)),
        ("transformer.blocks.1.to_out.0.weight", (4, 4), Landing("transformer.blocks.1.to_out.weight", 0, 4)),
    ],
    ids=["slice", "bias", "renamed"],
)
def test_it_is_found_and_everything_put_back(name, shape, landing):
    pipeline = Fusing()
    before = {n: p.data.clone() for n, p in pipeline.named_parameters()}
    assert locate(pipeline, {name: shape}) == {name: landing}
    assert all(torch.equal(p.data, before[n]) for n, p in pipeline.named_parameters())
    assert landing.is_whole(pipeline) == ("to_out" in name)


def test_a_weight_without_a_place_is_an_error():
    with pytest.raises(ValueError, match=r"no place for the weight transformer\.blocks\.0\.unknown\.weight"):
        locate(Fusing(), {"transformer.blocks.0.unknown.weight": (4, 4)})


class Wide(nn.Module):
    """More weights outside of all blocks than one digit numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ParameterDict({f"head_{i}": nn.Parameter(torch.randn(2)) for i in range(450)})

    def load_weights(self, weights):
        for name, weight in weights:
            self.get_parameter(name).data.copy_(weight)
        return set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_at_once_are_told_apart(dtype):
    pipeline = Wide().to(dtype)
    before = {n: p.data.clone() for n, p in pipeline.named_parameters()}
    found = locate(pipeline, {n: p.shape for n, p in pipeline.named_parameters()})
    assert found == {n: Landing(n, 0, 2) for n in before}
    assert all(torch.equal(p.data, before[n]) for n, p in pipeline.named_parameters())
    assert locate(pipeline, {}) == {}


class Failing(Fusing):
    """Loads some weights and then fails, as a pipeline does that checks a shape late."""

    def load_weights(self, weights):
        super().load_weights(weights)
        raise RuntimeError("size mismatch")


def test_weights_are_restored_after_a_load_that_fails():
    pipeline = Failing()
    before = {n: p.data.clone() for n, p in pipeline.named_parameters()}
    with pytest.raises(RuntimeError, match="size mismatch"):
        locate(pipeline, {"transformer.blocks.0.to_q.weight": (4, 4)})
    assert all(torch.equal(p.data, before[n]) for n, p in pipeline.named_parameters())
