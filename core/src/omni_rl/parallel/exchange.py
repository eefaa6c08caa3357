"""Bytes and JSON data from rank to rank, through the CPU, among all ranks or among ``ranks``.

Every one of the ranks must call each function equally often.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from omni_rl.parallel.group import Ranks, everyone


def exchanged(parcels: Sequence[bytes], ranks: Ranks | None = None) -> list[bytes]:
    """Send ``parcels[r]`` to rank r; returns what each rank sent to this one, by rank."""
    ranks = ranks or everyone()
    if ranks.size == 1:
        return list(parcels)
    sent = torch.tensor([len(parcel) for parcel in parcels])
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=ranks.group)
    data = torch.frombuffer(bytearray(b"".join(parcels)) or bytearray(1), dtype=torch.uint8)[: int(sent.sum())]
    arrived = torch.empty(int(received.sum()), dtype=torch.uint8)
    dist.all_to_all_single(arrived, data, received.tolist(), sent.tolist(), group=ranks.group)
    return [part.numpy().tobytes() for part in arrived.split(received.tolist())]


def gathered(value: Any, ranks: Ranks | None = None) -> list[Any]:
    """The JSON data of every rank, by rank."""
    ranks = ranks or everyone()
    return [json.loads(text) for text in exchanged([json.dumps(value).encode()] * ranks.size, ranks)]


def from_rank_0(value: Any) -> Any:
    """The JSON data of rank 0; other ranks' ``value`` is not used."""
    return json.loads(from_first(json.dumps(value).encode(), everyone()))


def from_first(parcel: bytes, ranks: Ranks) -> bytes:
    """The bytes of the first of the ranks; others' ``parcel`` is not used."""
    return exchanged([parcel if ranks.rank == 0 else b""] * ranks.size, ranks)[0]
