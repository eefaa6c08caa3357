"""Gradients of the velocity: they reach what trains, nothing else, and are the right ones."""

from __future__ import annotations

import re

import pytest
import torch
from model_cases import Case

UNUSED = {
    "QwenImagePipeline": r"transformer_blocks\.1\.(attn\.(to_add_out|add_q_proj|norm_added_q)|txt_mlp|txt_mod)",
    "StableDiffusion3Pipeline": r"transformer_blocks\.1\.attn\.(add_q_proj|norm_added_q)",
}
"""What becomes of the text in the last block is never looked at."""


def _loss(case: Case, assembly) -> torch.Tensor:
    policy = assembly.backend.policy
    inputs = assembly.hooks.prepare_model_inputs(policy=policy, batch=case.batch, steps=[0])
    velocity = policy.predict(**inputs)["x"]
    weights = torch.randn(velocity.shape, generator=torch.Generator().manual_seed(0))
    return (velocity * weights).mean()


def _clear(assembly) -> None:
    for parameter in assembly.model.parameters().values():
        parameter.grad = None


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_they_reach_every_trained_tensor_that_the_model_uses(case: Case, lora):
    assembly = case.assembly(lora=lora)
    _loss(case, assembly).backward()
    silent = {n for n, p in assembly.model.parameters().items() if p.grad is None or not p.grad.any()}
    modules = assembly.model.modules.values()
    others = [p for m in modules for p in m.parameters() if p.grad is not None and not p.requires_grad]
    trained = {id(p) for p in assembly.model.parameters().values()}
    strangers = [p for m in modules for p in m.parameters() if p.requires_grad and id(p) not in trained]
    _clear(assembly)
    unused = UNUSED.get(case.architecture)
    assert silent == {n for n in silent if unused and re.search(unused, n)}
    assert len(silent) < len(trained) / 4
    assert others == strangers == []


def test_they_are_the_slope_of_the_velocity(case: Case):
    """Against a central difference along the gradient, where it is steepest."""
    assembly = case.assembly(lora=True)
    _loss(case, assembly).backward()
    moved = {p: p.grad.clone() for p in assembly.model.parameters().values() if p.grad is not None}
    _clear(assembly)
    length = torch.stack([g.square().sum() for g in moved.values()]).sum().sqrt()
    kept, values, h = {p: p.data for p in moved}, [], 1e-2
    for sign in (1, -1):
        for parameter, gradient in moved.items():
            parameter.data = kept[parameter] + sign * h * gradient / length
        with torch.no_grad():
            values.append(_loss(case, assembly).double())
    for parameter, data in kept.items():
        parameter.data = data
    slope = (values[0] - values[1]) / (2 * h)
    torch.testing.assert_close(slope.float(), length, rtol=2e-2, atol=0)
