"""Batches of samples with several sizes.

Sizes differ if the prompt file sets them per row (``data.call``, ``data.media``). The form of a row is its tensor
shapes and its pipeline arguments. Rows of one form are sampled and replayed together. A batch with several forms is a
lazy stack of its rows, and is computed in parts of one form each. Means over a mini-batch count all rows equally.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import torch
from tensordict import LazyStackedTensorDict, TensorDict

from omni_rl.contracts.types import Tensors

T = TypeVar("T")


def by_form(items: Sequence[T], form_of: Callable[[T], Hashable]) -> list[list[int]]:
    """Indices of the items of each form, in the order in which the forms first occur."""
    indices: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        indices.setdefault(form_of(item), []).append(index)
    return list(indices.values())


def stacked(rows: Sequence[TensorDict]) -> TensorDict:
    """Stack N rows (batch size []) to one batch (N,); a lazy stack if they have several forms."""
    if len(by_form(rows, row_form)) == 1:
        return TensorDict.stack(list(rows)).contiguous()  # type: ignore[no-any-return]
    return TensorDict.lazy_stack(list(rows))  # type: ignore[no-any-return]


def row_form(row: TensorDict) -> Hashable:
    """The form of a row: its tensor shapes and its pipeline arguments."""
    shapes = sorted((str(key), tuple(value.shape)) for key, value in row.items(True, True))
    stored = row["call"].items() if "call" in row.keys() else ()
    call = sorted((name, str(value.dtype), value.item()) for name, value in stored)
    return tuple(shapes), tuple(call)


def forms(batch: TensorDict) -> list[tuple[torch.Tensor, TensorDict]]:
    """For each form, the indices (M,) int64 of its rows and the rows (M,); one entry if all rows have one form."""
    if not isinstance(batch, LazyStackedTensorDict):
        return [(torch.arange(len(batch)), batch)]
    rows = batch.unbind(0)
    return [(torch.tensor(i), TensorDict.stack([rows[n] for n in i]).contiguous()) for i in by_form(rows, row_form)]


def parts(batch: TensorDict, size: int) -> Iterator[tuple[torch.Tensor, TensorDict]]:
    """Micro-batches of at most ``size`` rows of one form, with the rows' indices in ``batch``."""
    for indices, rows in forms(batch):
        yield from zip(indices.split(size), rows.split(size), strict=True)


def in_parts(batch: TensorDict, size: int, measure: Callable[[TensorDict], Tensors]) -> Tensors:
    """Apply ``measure`` to micro-batches (B,) and join its results by name: (N, ...) in the order of ``batch``.

    The result is on the CPU; floats are fp32.
    """
    measured = [(indices, measure(part)) for indices, part in parts(batch, size)]
    order = torch.cat([indices for indices, _ in measured]).argsort()
    return {name: _on_cpu(torch.cat([each[name] for _, each in measured]))[order] for name in measured[0][1]}


def _on_cpu(values: torch.Tensor) -> torch.Tensor:
    return values.float().cpu() if values.is_floating_point() else values.cpu()


def change(batch: TensorDict, work: Callable[[TensorDict], TensorDict]) -> TensorDict:
    """Apply ``work``, which may add or remove rows, to the rows of each form; groups keep their order."""
    changed = [work(rows) for _, rows in forms(batch)]
    if len(changed) == 1:
        return changed[0]
    first: dict[int, int] = {}
    for index, uid in enumerate(batch["uid"].tolist()):
        first.setdefault(uid, index)
    rows = [row for part in changed for row in part.unbind(0)]
    if not rows:
        return changed[0]
    return TensorDict.lazy_stack(sorted(rows, key=lambda row: first[int(row["uid"])]))  # type: ignore[no-any-return]
