"""Which rank samples which request, and which rank trains with which group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from tensordict import TensorDict

from omni_rl.contracts.requests import Request


def ranks_of(requests: Sequence[Request], groups_together: int | None, ranks: int) -> list[int]:
    """The rank that samples each request.

    The samples of each mini-batch are divided into contiguous blocks of nearly equal size, one for each rank, so that
    every update finds rows on all ranks, and few groups are divided.

    Args:
        requests: group by group.
        groups_together: the number of groups in a mini-batch; None: all.
    """
    return [number * ranks // size for size in _mini_batches(requests, groups_together) for number in range(size)]


def owners_of(requests: Sequence[Request], ranks: Sequence[int]) -> dict[int, int]:
    """The rank that holds the whole group, by uid: the one that samples its first request."""
    owners: dict[int, int] = {}
    for request, rank in zip(requests, ranks, strict=True):
        owners.setdefault(request.uid, rank)
    return owners


def own_groups(batch: TensorDict, rank: int, ranks: int) -> TensorDict:
    """The rows of this rank's groups, of a batch (N,) that all ranks have; a contiguous block of the groups."""
    uids = list(dict.fromkeys(batch["uid"].tolist()))
    mine = [uid for number, uid in enumerate(uids) if number * ranks // len(uids) == rank]
    return batch[torch.isin(batch["uid"], torch.tensor(mine, dtype=torch.int64))]


def _mini_batches(requests: Sequence[Request], groups_together: int | None) -> Iterator[int]:
    """The number of samples in each mini-batch."""
    groups = list(dict.fromkeys(request.uid for request in requests))
    per = groups_together or max(1, len(groups))
    for first in range(0, len(groups), per):
        uids = set(groups[first : first + per])
        yield sum(request.uid in uids for request in requests)
