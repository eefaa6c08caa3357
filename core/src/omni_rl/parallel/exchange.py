"""Bytes and JSON data from rank to rank, through the CPU. Every rank must call each function equally often."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from omni_rl.parallel.group import rank, world_size


def exchanged(parcels: Sequence[bytes]) -> list[bytes]:
    """Send ``parcels[r]`` to rank r; returns what each rank sent to this one, by rank."""
    if world_size() == 1:
        return list(parcels)
    sent = torch.tensor([len(parcel) for parcel in parcels])
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    data = torch.frombuffer(bytearray(b"".join(parcels)) or bytearray(1), dtype=torch.uint8)[: int(sent.sum())]
    arrived = torch.empty(int(received.sum()), dtype=torch.uint8)
    dist.all_to_all_single(arrived, data, received.tolist(), sent.tolist())
    return [part.numpy().tobytes() for part in arrived.split(received.tolist())]


def gathered(value: Any) -> list[Any]:
    """The JSON data of every rank, by rank."""
    return [json.loads(text) for text in exchanged([json.dumps(value).encode()] * world_size())]


def from_rank_0(value: Any) -> Any:
    """The JSON data of rank 0; other ranks' ``value`` is not used."""
    text = json.dumps(value if rank() == 0 else None).encode()
    parcels = [text if rank() == 0 else b""] * world_size()
    return json.loads(exchanged(parcels)[0])
