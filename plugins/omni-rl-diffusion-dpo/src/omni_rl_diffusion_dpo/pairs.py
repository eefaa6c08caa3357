"""Forms preference pairs from the samples of a group."""

from __future__ import annotations

import torch
from tensordict import TensorDict


def paired(batch: TensorDict, count: int = 1) -> TensorDict:
    """Up to ``count`` pairs of every group as rows (P,), in the order of the groups; ties form no pair."""
    better, worse = [], []
    for group in batch["uid"].unique_consecutive():
        rows = (batch["uid"] == group).nonzero().flatten()
        values = batch["rewards"][rows]
        order = values.argsort(descending=True, stable=True)
        for high, low in zip(order[: min(count, len(rows) // 2)], order.flip(0), strict=False):
            if values[high] > values[low]:
                better.append(int(rows[high]))
                worse.append(int(rows[low]))
    found = batch[torch.tensor(better, dtype=torch.int64)]
    found["rejected"] = batch["latents"][torch.tensor(worse, dtype=torch.int64)]
    return found
