"""Per-row timesteps for pipelines that were written for one timestep per call.

``vector``: the pipeline takes a (B,) timestep as it is. ``grouped``: one call per distinct timestep. ``single``: one
call per row. Which one a pipeline allows is measured against single calls (:func:`fastest_mode`), never assumed; it is
measured by the first call that needs to know, so that a run goes the same way with and without the gate, and resumed.
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


def in_rows(step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, mode: Mode) -> Streams:
    """Velocities for x (B, ...) at t (B,), calling ``step`` with 0-d timesteps (or (B,) in ``vector`` mode)."""
    equal = len(t) == 1 or bool((t == t[0]).all())
    if equal and mode != "single":
        return step(x, t[0], conditioning)
    if mode == "vector":
        return step(x, t, conditioning)
    groups = [torch.tensor([i]) for i in range(len(t))] if mode == "single" else _rows_by_value(t)
    return in_groups(groups, lambda rows: step(take(x, rows), t[rows[0]], take(conditioning, rows)))


def in_groups(groups: Sequence[torch.Tensor], answer: Callable[[torch.Tensor], Streams]) -> Streams:
    """What ``answer`` gives for each group of row indices (b,), with the rows in their order again."""
    parts = [answer(rows) for rows in groups]
    back = torch.argsort(torch.cat(list(groups)))
    return {name: torch.cat([p[name] for p in parts])[back.to(value.device)] for name, value in parts[0].items()}


def _rows_by_value(t: torch.Tensor) -> list[torch.Tensor]:
    host = t.cpu()
    return [(host == value).nonzero().flatten() for value in host.unique()]


def take(tensors: Tensors, rows: torch.Tensor) -> Tensors:
    """The rows (b,) of every tensor."""
    return {name: value[rows.to(value.device)] for name, value in tensors.items()}


def fastest_mode(step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, tolerance: float) -> Mode:
    """The fastest mode whose velocities agree with single calls; t (B,) must hold at least two distinct values.

    Measured on three rows, two of them at one timestep; different rows as far as there are so many.

    Returns:
        ``single`` when neither batch form agrees to ``tolerance`` (relative to the largest velocity).
    """
    other = int((t != t[0]).nonzero()[0])
    beside = next((i for i in range(1, len(t)) if i != other), other)
    rows = torch.tensor([0, beside, other])
    x, t, conditioning = take(x, rows), t[[0, 0, other]], take(conditioning, rows)
    reference = in_rows(step, x, t, conditioning, "single")
    modes: tuple[Mode, ...] = ("vector", "grouped")
    for mode in modes:
        try:
            found = in_rows(step, x, t, conditioning, mode)
        except torch.OutOfMemoryError:
            raise
        except NOT_TAKEN:
            continue  # the pipeline cannot take this form: exactly what is being asked
        if all(close(found[n], reference[n], tolerance) for n in x):
            return mode
    return "single"


def rows_are_apart(step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, tolerance: float) -> bool:
    """Whether rows at one timestep get the same velocities together as alone, as :func:`fastest_mode` compares them."""
    alone = in_rows(step, x, t, conditioning, "single")
    try:
        together = step(x, t[0], conditioning)
    except torch.OutOfMemoryError:
        raise
    except NOT_TAKEN:
        return False
    return all(close(together[n], alone[n], tolerance) for n in x)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether ``a`` is ``b`` to ``tolerance``, relative to the largest element of ``b``."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())
