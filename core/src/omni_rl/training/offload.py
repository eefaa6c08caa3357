"""Keeps the optimizer state on the CPU between updates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from omni_rl.parallel.whole import joined_part, own_part


@contextlib.contextmanager
def optimizer_state_on(optimizer: torch.optim.Optimizer, device: torch.device, offload: bool) -> Iterator[None]:
    """If ``offload``, move the optimizer state to ``device`` inside the context, and back to the CPU afterwards.

    On the CPU, the state of a sharded parameter is a plain tensor: the part of this rank.
    """
    if offload:
        for parameter, key, value in _state(optimizer):
            optimizer.state[parameter][key] = joined_part(own_part(value).to(device), parameter)
    try:
        yield
    finally:
        if offload:
            for parameter, key, value in _state(optimizer):
                optimizer.state[parameter][key] = own_part(value).cpu()


def _state(optimizer: torch.optim.Optimizer) -> list[tuple[torch.Tensor, str, torch.Tensor]]:
    """Parameter, key and value; AdamW keeps its step count on the CPU."""
    return [(p, key, value) for p, state in optimizer.state.items() for key, value in state.items() if key != "step"]
