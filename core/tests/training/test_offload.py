"""The optimizer's state on the CPU: a step moves it in parts, and gives what a step at once gives."""

from __future__ import annotations

import pytest
import torch

from omni_rl.training.offload import step_in_parts

CPU = torch.device("cpu")
SIZES = (8, 8, 40, 1, 7, 16)
"""Numbers of fp32 values of the parameters."""


def optimizer_of(seed: int) -> torch.optim.AdamW:
    """AdamW on parameters with gradients; the last has none."""
    drawn = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=drawn)) for size in SIZES]
    for parameter in parameters[:-1]:
        parameter.grad = torch.randn(parameter.shape, generator=drawn)
    return torch.optim.AdamW(parameters, lr=0.1)


@pytest.mark.parametrize("at_a_time", [1, 64, 10**6])
def test_parts_change_no_result(at_a_time):
    whole, parts = optimizer_of(0), optimizer_of(0)
    for _ in range(3):
        whole.step()
        step_in_parts(parts, CPU, at_a_time)
    kept, moved = whole.state_dict(), parts.state_dict()
    assert kept["param_groups"] == moved["param_groups"]
    assert kept["state"].keys() == moved["state"].keys()
    for number, state in kept["state"].items():
        assert all(torch.equal(value, moved["state"][number][key]) for key, value in state.items())
    for one, other in zip(whole.param_groups[0]["params"], parts.param_groups[0]["params"], strict=True):
        assert torch.equal(one, other)


def test_no_part_is_larger_than_asked_for(monkeypatch):
    """But for a parameter that alone is."""
    optimizer = optimizer_of(0)
    step, seen = optimizer.step, []

    def watched() -> None:
        seen.append([parameter.numel() for parameter in optimizer.param_groups[0]["params"]])
        step()

    monkeypatch.setattr(optimizer, "step", watched)
    step_in_parts(optimizer, CPU, at_a_time=64)
    assert seen == [[8, 8], [40], [1, 7], [16]]


def test_an_error_leaves_all_parameters_in_the_optimizer(monkeypatch):
    optimizer = optimizer_of(0)

    def fail() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(optimizer, "step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        step_in_parts(optimizer, CPU, at_a_time=1)
    assert len(optimizer.param_groups[0]["params"]) == len(SIZES)
