"""Rows of a batch as bytes, and back: the data of one safetensors file, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from tensordict import TensorDict

from omni_rl.contracts.types import Tensors


def pack(rows: Sequence[TensorDict]) -> bytes:
    """Rows (batch size []) of any keys and shapes as bytes."""
    tensors: Tensors = {}
    for number, row in enumerate(rows):
        tensors |= named(row, number)
    return save(tensors, {"rows": str(len(rows))}) if rows else b""


def unpack(data: bytes) -> list[TensorDict]:
    """The inverse of :func:`pack`."""
    found = by_place(load(data), 1) if data else {}
    return [found[place] for place in sorted(found)]


def named(rows: TensorDict, *place: int) -> Tensors:
    """The tensors of one or more rows on the CPU, each with memory of its own, as safetensors requires.

    A name is a JSON list: ``place``, and the parts of the key, which may contain any character.
    """
    keys = [key if isinstance(key, tuple) else (key,) for key in rows.keys(True, True)]
    return {json.dumps([*place, *key]): rows[key].cpu().contiguous().clone() for key in keys}


def by_place(tensors: Mapping[str, torch.Tensor], length: int, dims: int = 0) -> dict[tuple[int, ...], TensorDict]:
    """The inverse of :func:`named` for the rows of several places of ``length`` numbers.

    Args:
        dims: the number of batch dimensions of the rows.
    """
    found: dict[tuple[int, ...], dict[Any, torch.Tensor]] = {}
    for name, value in tensors.items():
        path = json.loads(name)
        found.setdefault(tuple(path[:length]), {})[tuple(path[length:])] = value
    return {place: TensorDict(each, _batch_size(each, dims)) for place, each in found.items()}


def _batch_size(tensors: Mapping[Any, torch.Tensor], dims: int) -> list[int]:
    return list(next(iter(tensors.values())).shape[:dims])
