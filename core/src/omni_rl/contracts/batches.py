"""Samples of several sizes in one iteration: which of them may stand in one batch.

Sizes differ where rows bring their own (``data.call``, ``data.media``). Rows of one form are drawn together and
replayed together; a batch that holds several forms is a lazy stack of its rows, and is only ever computed with in parts
of one form. What is averaged over a mini-batch is averaged over all of its rows, whatever their form.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import torch
from tensordict import LazyStackedTensorDict, TensorDict

from omni_rl.contracts.types import Tensors

T = TypeVar("T")


def by_form(items: Sequence[T], form_of: Callable[[T], Hashable]) -> list[list[int]]:
    """Indices of items of one form, forms in the order of their first item."""
    found: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        found.setdefault(form_of(item), []).append(index)
    return list(found.values())


def stacked(rows: Sequence[TensorDict]) -> TensorDict:
    """Rows, batch size [], as one batch (N,): lazily if they are of several forms."""
    if len(by_form(rows, row_form)) == 1:
        return TensorDict.stack(list(rows)).contiguous()  # type: ignore[no-any-return]
    return TensorDict.lazy_stack(list(rows))  # type: ignore[no-any-return]


def row_form(row: TensorDict) -> Hashable:
    """Shapes, and the pipeline's arguments."""
    shapes = sorted((str(key), tuple(value.shape)) for key, value in row.items(True, True))
    stored = row["call"].items() if "call" in row.keys() else ()
    call = sorted((name, str(value.dtype), value.item()) for name, value in stored)
    return tuple(shapes), tuple(call)


def forms(batch: TensorDict) -> list[tuple[torch.Tensor, TensorDict]]:
    """The rows of each form with their places (M,) int64; the batch itself when all have one form."""
    if not isinstance(batch, LazyStackedTensorDict):
        return [(torch.arange(len(batch)), batch)]
    rows = batch.unbind(0)
    return [(torch.tensor(i), TensorDict.stack([rows[n] for n in i]).contiguous()) for i in by_form(rows, row_form)]


def parts(batch: TensorDict, size: int) -> Iterator[tuple[torch.Tensor, TensorDict]]:
    """Micro-batches of at most ``size`` rows of one form, with their places in ``batch``."""
    for places, rows in forms(batch):
        yield from zip(places.split(size), rows.split(size), strict=True)


def in_parts(batch: TensorDict, size: int, measure: Callable[[TensorDict], Tensors]) -> Tensors:
    """(N, ...) on the CPU, floats in fp32, of ``measure(part)`` (B, ...) by name, in the order of ``batch``."""
    measured = [(places, measure(part)) for places, part in parts(batch, size)]
    order = torch.cat([places for places, _ in measured]).argsort()
    return {name: _on_cpu(torch.cat([each[name] for _, each in measured]))[order] for name in measured[0][1]}


def _on_cpu(values: torch.Tensor) -> torch.Tensor:
    return values.float().cpu() if values.is_floating_point() else values.cpu()


def change(batch: TensorDict, work: Callable[[TensorDict], TensorDict]) -> TensorDict:
    """``work`` applied to the rows of each form; groups keep their order, whatever becomes of their rows."""
    changed = [work(rows) for _, rows in forms(batch)]
    if len(changed) == 1:
        return changed[0]
    first: dict[int, int] = {}
    for place, uid in enumerate(batch["uid"].tolist()):
        first.setdefault(uid, place)
    rows = [row for part in changed for row in part.unbind(0)]
    return TensorDict.lazy_stack(sorted(rows, key=lambda row: first[int(row["uid"])]))  # type: ignore[no-any-return]
