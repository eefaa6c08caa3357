"""Per-row timesteps for pipelines that were written for one timestep per call.

``vector``: the pipeline takes a (B,) timestep as it is. ``grouped``: one call per distinct timestep. ``single``: one
call per row. Which one a pipeline allows is measured against single calls (:func:`fastest_mode`), never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from omni_rl.contracts.types import Streams, Tensors

Mode = Literal["vector", "grouped", "single"]
NOT_TAKEN = (RuntimeError, ValueError, TypeError, IndexError)
"""What a pipeline raises when it cannot take a batch in some form."""

SingleStep = Callable[[Streams, torch.Tensor, Tensors], Streams]
"""Velocities of x (B, ...) at a timestep, 0-d or (B,), with conditioning (B, ...)."""

_NOTICEABLE = 0.25
"""A row must come closer to its velocity than this share of what another timestep would change."""


def in_rows(step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, mode: Mode) -> Streams:
    """Velocities for x (B, ...) at t (B,), calling ``step`` with 0-d timesteps (or (B,) in ``vector`` mode)."""
    equal = len(t) == 1 or bool((t == t[0]).all())
    if equal and mode != "single":
        return step(x, t[0], conditioning)
    if mode == "vector":
        return step(x, t, conditioning)
    groups = [torch.tensor([i]) for i in range(len(t))] if mode == "single" else _rows_by_value(t)
    return in_groups(groups, lambda rows: step(take(x, rows), t[rows[0]], take(conditioning, rows)))


def in_groups(groups: Sequence[torch.Tensor], compute: Callable[[torch.Tensor], Streams]) -> Streams:
    """Join what ``compute`` returns for each group of row indices (b,), with the rows in their order again."""
    parts = [compute(rows) for rows in groups]
    back = torch.argsort(torch.cat(list(groups)))
    return {name: torch.cat([p[name] for p in parts])[back.to(value.device)] for name, value in parts[0].items()}


def _rows_by_value(t: torch.Tensor) -> list[torch.Tensor]:
    host = t.cpu()
    return [(host == value).nonzero().flatten() for value in host.unique()]


def take(tensors: Tensors, rows: torch.Tensor) -> Tensors:
    """The rows (b,) of every tensor."""
    return {name: value[rows.to(value.device)] for name, value in tensors.items()}


def fastest_mode(step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, tolerance: float) -> Mode:
    """The fastest mode whose velocities agree with single calls.

    Measured on three rows, two sharing a timestep; rows repeat if fewer. ``vector`` must also tell timesteps apart:
    a tolerance alone would accept a pipeline that uses one row's timestep for all rows, if velocities differ little.

    Args:
        t: (B,) with at least two distinct values, as far apart as possible.

    Returns:
        ``single`` when neither batch form agrees to ``tolerance`` (relative to the largest velocity).
    """
    other = int((t != t[0]).nonzero()[0])
    beside = next((i for i in range(1, len(t)) if i != other), other)
    rows = torch.tensor([0, beside, other])
    x, t, conditioning = take(x, rows), t[[0, 0, other]], take(conditioning, rows)
    alone = in_rows(step, x, t, conditioning, "single")
    together = _if_taken(lambda: step(x, t, conditioning))
    if together is not None and agree(together, alone, tolerance):
        swapped = in_rows(step, x, t[[2, 2, 0]], conditioning, "single")
        if all(_tells_timesteps(together[n], alone[n], swapped[n]) for n in x):
            return "vector"
    together = _if_taken(lambda: in_rows(step, x, t, conditioning, "grouped"))
    return "grouped" if together is not None and agree(together, alone, tolerance) else "single"


def rows_are_apart(step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, tolerance: float) -> bool:
    """Whether rows at one timestep get the same velocities together as alone."""
    alone = in_rows(step, x, t, conditioning, "single")
    together = _if_taken(lambda: step(x, t[0], conditioning))
    return together is not None and agree(together, alone, tolerance)


def _if_taken(compute: Callable[[], Streams]) -> Streams | None:
    """None where the pipeline cannot take the batch, which is what is being measured."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        raise
    except NOT_TAKEN:
        return None


def _tells_timesteps(together: torch.Tensor, alone: torch.Tensor, swapped: torch.Tensor) -> bool:
    """Whether every row comes far closer to its velocity than to the one at another row's timestep."""
    error, effect = ((v - alone).flatten(1).abs().amax(1) for v in (together, swapped))
    return bool((error <= _NOTICEABLE * effect).all())


def agree(a: Streams, b: Streams, tolerance: float) -> bool:
    """Whether ``a`` is ``b`` to ``tolerance``, relative to the largest element of each stream of ``b``."""
    return all(bool((a[n] - v).abs().max() <= tolerance * v.abs().max()) for n, v in b.items())
