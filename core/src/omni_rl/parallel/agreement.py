"""Sums and decisions that are equal on all ranks. With one process, each function returns its argument."""

from __future__ import annotations

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(values: torch.Tensor) -> torch.Tensor:
    """``values`` summed over all ranks, elementwise; every rank must call it equally often, with equal shapes."""
    if world_size() == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def any_rank(flag: bool) -> bool:
    """True if ``flag`` is True on any rank."""
    return bool(total(torch.tensor(float(flag))) > 0)
