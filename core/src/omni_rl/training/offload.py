"""Keeps the optimizer state on the CPU between updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from omni_rl.parallel.whole import joined_part, own_part

AT_A_TIME = 2**30
"""Bytes of weights whose state is on the device together; AdamW keeps twice as many."""


def step_in_parts(optimizer: torch.optim.Optimizer, device: torch.device, at_a_time: int = AT_A_TIME) -> None:
    """Step an optimizer whose state is on the CPU. The state of some parameters at a time is moved to ``device``.

    For an optimizer with one group, which treats each parameter by itself. On the CPU, the state of a sharded parameter
    is a plain tensor: the part of this rank.
    """
    (group,) = optimizer.param_groups
    every = group["params"]
    try:
        for part in _parts(every, at_a_time):
            group["params"] = part
            for parameter, key, value in _state(optimizer, part):
                optimizer.state[parameter][key] = joined_part(own_part(value).to(device), parameter)
            try:
                optimizer.step()
            finally:
                for parameter, key, value in _state(optimizer, part):
                    optimizer.state[parameter][key] = own_part(value).cpu()
    finally:
        group["params"] = every


def _parts(parameters: Sequence[torch.Tensor], at_a_time: int) -> Iterator[list[torch.Tensor]]:
    part: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        own = own_part(parameter).nbytes
        if part and size + own > at_a_time:
            yield part
            part, size = [], 0
        part.append(parameter)
        size += own
    if part:
        yield part


def _state(
    optimizer: torch.optim.Optimizer, parameters: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, str, torch.Tensor]]:
    """Parameter, key and value; AdamW keeps its step count on the CPU."""
    states = ((p, optimizer.state.get(p, {})) for p in parameters)
    return [(p, key, value) for p, state in states for key, value in state.items() if key != "step"]
