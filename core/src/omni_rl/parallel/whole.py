"""Tensors of which each rank holds a part (DTensors). Other tensors are returned as they are."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


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
    return _joined(part, like, like.device_mesh) if isinstance(like, DTensor) else part


def joined_on_cpu(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """:func:`joined_part` for a part in the memory of the CPU, where ``like`` may be on a GPU.

    All ranks must make the first call for each mesh together.
    """
    return _joined(part, like, _on_cpu(like.device_mesh)) if isinstance(like, DTensor) else part


def _joined(part: torch.Tensor, like: DTensor, mesh: DeviceMesh) -> torch.Tensor:
    return DTensor.from_local(part, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


@functools.cache
def _on_cpu(mesh: DeviceMesh) -> DeviceMesh:
    return mesh if mesh.device_type == "cpu" else DeviceMesh("cpu", mesh.mesh, mesh_dim_names=mesh.mesh_dim_names)


def begins_at(tensor: torch.Tensor) -> list[int]:
    """The index in the whole tensor, by dimension, at which this rank's part begins."""
    if not isinstance(tensor, DTensor):
        return [0] * tensor.ndim
    _, begins = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return list(begins)


def is_first_to_hold(tensor: torch.Tensor) -> bool:
    """Whether no earlier rank holds the same part of a sharded tensor as this one, and the part is not empty."""
    assert isinstance(tensor, DTensor)
    places: Sequence[int] = tensor.device_mesh.get_coordinate() or ()
    first = all(place == 0 for place, kind in zip(places, tensor.placements, strict=True) if kind.is_replicate())
    return first and (tensor.to_local().numel() > 0 or tensor.numel() == 0)
