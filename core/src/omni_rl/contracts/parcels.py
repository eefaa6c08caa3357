"""Rows of a batch as bytes, and back: the data of one safetensors file, without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from safetensors.torch import load, save
from tensordict import TensorDict


def pack(rows: Sequence[TensorDict]) -> bytes:
    """Rows (batch size []) on the CPU, of any keys and shapes, as bytes."""
    tensors: dict[str, torch.Tensor] = {}
    for number, row in enumerate(rows):
        for key, value in row.items(True, True):
            assert isinstance(value, torch.Tensor)
            path = [key] if isinstance(key, str) else list(key)
            tensors[json.dumps([number, *path])] = value.clone()  # safetensors refuses tensors that share their memory
    return save(tensors, {"rows": str(len(rows))}) if rows else b""


def unpack(data: bytes) -> list[TensorDict]:
    """The inverse of :func:`pack`."""
    if not data:
        return []
    found: dict[int, dict[tuple[str, ...], torch.Tensor]] = {}
    for name, value in load(data).items():
        number, *path = json.loads(name)
        found.setdefault(number, {})[tuple(path)] = value
    return [_row(found[number]) for number in sorted(found)]


def _row(values: dict[tuple[str, ...], torch.Tensor]) -> TensorDict:
    row = TensorDict({}, [])
    for path, value in values.items():
        row[path if len(path) > 1 else path[0]] = value
    return row
