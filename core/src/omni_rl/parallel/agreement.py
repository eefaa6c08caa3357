"""Sums and decisions that are equal on all ranks, or on all of ``ranks``. With one, each function returns its argument.

Every one of the ranks must call them equally often and in the same order.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from omni_rl.parallel.group import Ranks, everyone


class OtherRankFailedError(BaseException):
    """Another rank cannot go on, and will tell why. No code that handles errors may handle this and go on alone."""


def total(values: torch.Tensor, ranks: Ranks | None = None) -> torch.Tensor:
    """``values`` summed over the ranks, elementwise; the shapes must be equal."""
    return _reduced(values, dist.ReduceOp.SUM, ranks or everyone())


def largest(values: torch.Tensor, ranks: Ranks | None = None) -> torch.Tensor:
    """The largest of ``values`` on any of the ranks, elementwise; the shapes must be equal."""
    return _reduced(values, dist.ReduceOp.MAX, ranks or everyone())


def any_rank(flag: bool) -> bool:
    """True if ``flag`` is True on any rank."""
    return bool(total(torch.tensor(float(flag))) > 0)


def _reduced(values: torch.Tensor, operation: dist.ReduceOp.RedOpType, ranks: Ranks) -> torch.Tensor:
    if ranks.size == 1:
        return values
    reduced = values.clone()
    dist.all_reduce(reduced, operation, group=ranks.group)
    return reduced
