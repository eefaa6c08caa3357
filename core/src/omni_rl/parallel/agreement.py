"""Sums and decisions that are equal on all ranks. With one process, each function returns its argument.

Every rank must call them equally often and in the same order.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from omni_rl.parallel.group import world_size


def total(values: torch.Tensor) -> torch.Tensor:
    """``values`` summed over all ranks, elementwise; the shapes must be equal."""
    return _reduced(values, dist.ReduceOp.SUM)


def largest(values: torch.Tensor) -> torch.Tensor:
    """The largest of ``values`` on any rank, elementwise; the shapes must be equal."""
    return _reduced(values, dist.ReduceOp.MAX)


def any_rank(flag: bool) -> bool:
    """True if ``flag`` is True on any rank."""
    return bool(total(torch.tensor(float(flag))) > 0)


def _reduced(values: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
    if world_size() == 1:
        return values
    reduced = values.clone()
    dist.all_reduce(reduced, operation)
    return reduced
