"""Checks of a run on several ranks: they train as one process does, and they have one verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from omni_rl.contracts.verdicts import Row
from omni_rl.gate.probe import Probe
from omni_rl.gate.rows import judge
from omni_rl.gate.subject import Trainer
from omni_rl.parallel.agreement import total
from omni_rl.parallel.exchange import gathered
from omni_rl.parallel.layout import data_ranks
from omni_rl.parallel.whole import own_part
from omni_rl.training.reduction import sum_over_ranks

LIMIT = 1e-4
"""Of the difference between two sums of the same gradients, relative to their norm: fp32 sums in another order."""


def one_process_row(subject: Trainer, probe: Probe) -> Row:
    """The gradient of the log-probs of a few rows: one row on each rank, and all of them on every rank."""
    if subject.backend.model is None or not probe.batch["timesteps"].shape[1]:
        return Row("one process", "info", "not applicable: the backend trains in other processes, or no step trains")
    ranks = data_ranks()
    rows = [number % len(probe.batch) for number in range(ranks.size)]
    dealt = _gradient(subject, probe, Counter([rows[ranks.rank]]))
    every = _gradient(subject, probe, Counter(rows))
    apart = sum(float((mine - theirs / ranks.size).square().sum()) for mine, theirs in zip(dealt, every, strict=True))
    size = sum(float((theirs / ranks.size).square().sum()) for theirs in every)
    apart, size = (float(value) ** 0.5 for value in total(torch.tensor([apart, size], dtype=torch.float64)))
    detail = f"the gradient of {len(rows)} samples, one on each rank, differs by {apart / max(size, 1e-30):.1g}"
    return replace(judge("one process", apart <= LIMIT * size, f"{detail} from that of one process"), limit=LIMIT)


def agreed(rows: Sequence[Row]) -> list[Row]:
    """The rows of all ranks as one table: a check that fails on any rank fails, and says on which."""
    told = gathered([[row.verdict, row.detail] for row in rows])
    merged = list(rows)
    for place, row in enumerate(rows):
        failed = [(number, each[place][1]) for number, each in enumerate(told) if each[place][0] == "fail"]
        if failed and row.verdict != "fail":
            number, detail = failed[0]
            merged[place] = replace(row, verdict="fail", detail=f"rank {number}: {detail}")
    return merged


def _gradient(subject: Trainer, probe: Probe, rows: Mapping[int, int]) -> list[torch.Tensor]:
    """This rank's part of the gradient (fp32, on the CPU) of the summed log-probs of all ranks' rows.

    Args:
        rows: how often each row counts on this rank.
    """
    parameters = list(subject.model.parameters().values())
    for row, count in rows.items():
        (count * subject.backend.policy.evaluate(probe.batch[row : row + 1], [0])[0].log_prob.sum()).backward()
    sum_over_ranks(parameters)
    found = [torch.zeros(own_part(p).shape) if p.grad is None else own_part(p.grad).float().cpu() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found
