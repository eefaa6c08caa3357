"""Gradients of all ranks: their sum, their norm, and clipping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from omni_rl.parallel.agreement import total
from omni_rl.parallel.group import world_size
from omni_rl.parallel.whole import whole

BUCKET = 2**25
"""Elements that are summed in one operation; a larger gradient is alone."""


def sum_over_ranks(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over all ranks, in place. Sharded parameters have the sum already.

    A parameter without a gradient on any rank keeps none. One rank may have had no sample, and so no gradients.
    """
    if world_size() == 1:
        return
    plain = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    present = total(torch.tensor([float(parameter.grad is not None) for parameter in plain])).tolist()
    for bucket in _buckets([parameter for parameter, ranks in zip(plain, present, strict=True) if ranks > 0]):
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        summed = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(summed)
        for parameter, part in zip(bucket, summed.split([p.numel() for p in bucket]), strict=True):
            parameter.grad = part.view_as(parameter)


def clip(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Clip the norm of all gradients together to ``limit``; returns the norm before, equal on all ranks."""
    norm = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
    clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
