"""Metrics of updates: sums and maxima over micro-batches, steps and ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.types import LossOutput, Tensors
from omni_rl.parallel.exchange import gathered
from omni_rl.parallel.layout import data_ranks


class Meter:
    """Sums per-sample metrics over micro-batches and steps; takes the maximum of metrics ``*_max``."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))

    def add(self, output: LossOutput, weights: torch.Tensor) -> None:
        """Add the metrics and the loss of a micro-batch with the weights of its losses."""
        for name, values in {**output.metrics, "loss": output.loss.detach()}.items():
            seen = weighted(values.detach(), weights).double().cpu()
            self._sums[name] = (
                torch.maximum(self._sums[name], seen.max()) if name.endswith("_max") else self._sums[name] + seen.sum()
            )

    def means(self, terms: float) -> dict[str, float]:
        """Means over the ``terms`` of all ranks, and maxima on any rank. All ranks must call it."""
        found = _over_ranks({name: float(value) for name, value in self._sums.items()})
        return {n: v if n.endswith("_max") else v / terms for n, v in found.items()}


def figures(batch: TensorDict) -> dict[str, float]:
    """The means of the entries ``metrics/<name>`` over the rows of all ranks. All ranks must call it."""
    own: Tensors = dict(batch["metrics"].items()) if "metrics" in batch.keys() and len(batch) else {}
    means = {name: float(values.double().mean()) for name, values in own.items()}
    ranks = [(rows, found) for rows, found in gathered([len(batch), means], data_ranks()) if found]
    if len(ranks) == 1:
        return dict(ranks[0][1])
    count = sum(rows for rows, _ in ranks)
    names = {name: None for _, found in ranks for name in found}
    return {name: sum(rows * found[name] for rows, found in ranks) / count for name in names}


def loss_weights(batch: TensorDict, steps: Sequence[int], loss: torch.Tensor) -> torch.Tensor:
    """The weights (B, S) of ``loss`` (B, S); a scalar 1 if the batch has no weights."""
    return (
        trajectory.columns(batch, "loss_weights", steps).to(loss)
        if "loss_weights" in batch.keys()
        else loss.new_ones(())
    )


def weighted(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``values * weights``, and 0 where the weight is 0, even if the value is not finite there."""
    return torch.where(weights != 0, values * weights, 0)


def _over_ranks(sums: dict[str, float]) -> dict[str, float]:
    """Sums and maxima of all ranks. A rank without a sample does not know the names."""
    found: dict[str, float] = {}
    for rank in gathered(sums, data_ranks()):
        for name, value in rank.items():
            if name not in found:
                found[name] = value
            else:
                found[name] = max(found[name], value) if name.endswith("_max") else found[name] + value
    return found
