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
    call = sorted((name, value.item()) for name, value in row["call"].items()) if "call" in row.keys() else []
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


def in_parts(batch: TensorDict, size: int, measure: Callable[[TensorDict], torch.Tensor]) -> torch.Tensor:
    """(N, ...) of ``measure(part)`` (B, ...), in the order of ``batch``."""
    found = list(parts(batch, size))
    places = torch.cat([place for place, _ in found])
    values = torch.cat([measure(part) for _, part in found])
    return values[places.argsort().to(values.device)]


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
