"""Keeps the optimizer state on the CPU between updates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def optimizer_state_on(optimizer: torch.optim.Optimizer, device: torch.device, offload: bool) -> Iterator[None]:
    """If ``offload``, move the optimizer state to ``device`` inside the context, and back to the CPU afterwards."""
    if offload:
        _move(optimizer, device)
    try:
        yield
    finally:
        if offload:
            _move(optimizer, torch.device("cpu"))


def _move(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            if key != "step":  # AdamW keeps its step count on the CPU
                state[key] = value.to(device)
