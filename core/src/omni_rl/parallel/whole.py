"""Tensors of which each rank holds a part (DTensors). Other tensors are returned as they are."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, detached. If it is sharded, all ranks must call this."""
    found = tensor.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part that this rank holds, detached; it shares the memory of ``tensor``."""
    found = tensor.detach()
    return found.to_local() if isinstance(found, DTensor) else found


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole tensor ``value`` that is sharded as ``like`` is; ranks need not call it together."""
    if not isinstance(like, DTensor):
        return value
    placed = value.to(like.to_local().device)
    return own_part(distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None))


def joined_part(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The sharded tensor whose part on this rank is ``part``, sharded as ``like`` is."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
