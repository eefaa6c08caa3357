"""Mini-batches of all ranks, dealt so that every rank has an equal share.

Each rank begins with the rows of whole groups. A mini-batch consists of the groups of any rank, in the order of their
``uid``; its rows are dealt over the ranks, those of each form (:mod:`omni_rl.contracts.batches`) separately, so that
the shares differ by at most one row. Rows travel as safetensors bytes.

Sharded weights are gathered in every forward, so that all ranks must run equally many. A share that lacks a row is
then filled with a copy of another row, whose loss has the weight 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from safetensors import torch as safetensors
from tensordict import TensorDict

from omni_rl.contracts import batches, parcels, trajectory
from omni_rl.contracts.types import Tensors
from omni_rl.parallel.exchange import exchanged, gathered
from omni_rl.parallel.layout import data_ranks


class MiniBatch(NamedTuple):
    """A mini-batch.

    Attributes:
        blocks: this rank's share of the rows; each block is computed in micro-batches of its own.
        terms: the divisor of the summed loss: the weights of all losses of the mini-batch, on all ranks.
    """

    blocks: Sequence[TensorDict]
    terms: float


class Row(NamedTuple):
    """A row on any rank: where it is, its group and form, and the sum of the weights of its losses."""

    rank: int
    place: int
    uid: int
    form: str
    terms: float


@dataclass(frozen=True)
class Block:
    """Rows of one form for one rank; ``filled``: the last one is a copy whose loss does not count."""

    rows: Sequence[Row]
    filled: bool


Shares = Sequence[Sequence[Block]]
"""The blocks of a mini-batch for each rank."""


def mini_batches(batch: TensorDict, prompts: int | None, in_step: bool) -> list[MiniBatch]:
    """The mini-batches of ``prompts`` groups each (None: of all) in which a loss counts. All ranks must call it.

    Args:
        batch: this rank's rows (N,), whole groups, each in consecutive rows.
        in_step: fill the shares, so that all ranks have equally many rows.
    """
    if data_ranks().size == 1:
        parts = [(part, terms(part)) for part in _by_prompts(batch, prompts)]
        return [MiniBatch([part], count) for part, count in parts if count > 0]
    planned = [part for part in _planned(_rows_of_all_ranks(batch), prompts) if _sum(part) > 0]
    blocks = _dealt(batch, [shares(part, data_ranks().size, in_step) for part in planned])
    return [MiniBatch(mine, _sum(part)) for mine, part in zip(blocks, planned, strict=True)]


def terms(batch: TensorDict) -> float:
    """The divisor of a mini-batch's summed loss: its rows times steps, or the sum of ``loss_weights``."""
    steps = range(trajectory.steps_of(batch))
    if "loss_weights" not in batch.keys():
        return len(batch) * len(steps)
    return float(sum(trajectory.at(batch, "loss_weights", step).double().sum() for step in steps))


def shares(rows: Sequence[Row], ranks: int, in_step: bool) -> list[list[Block]]:
    """Deal the rows of a mini-batch: the blocks of each rank, one for each form."""
    dealt: list[list[Block]] = [[] for _ in range(ranks)]
    place = 0
    for alike in batches.by_form(rows, lambda row: row.form):
        same = [rows[i] for i in alike]
        counts = [0] * ranks
        for k in range(len(same)):
            counts[(place + k) % ranks] += 1
        place, start = place + len(same), 0
        for blocks, count in zip(dealt, counts, strict=True):
            mine, short = same[start : start + count], in_step and count < max(counts)
            start += count
            if mine or short:
                blocks.append(Block([*mine, same[0]] if short else mine, short))
    return dealt


def lent_row(batch: TensorDict) -> TensorDict:
    """A row (1,) of this rank, or of another one if this rank has none. All ranks must call it; one must have rows."""
    ranks = data_ranks()
    counts = gathered(len(batch), ranks)
    lender = next(index for index, count in enumerate(counts) if count)
    own = batches.forms(batch)[0][1][:1] if len(batch) else None
    parcel = parcels.pack([own[0]]) if own is not None and ranks.rank == lender else b""
    arrived = exchanged([parcel if count == 0 else b"" for count in counts], ranks)
    return parcels.unpack(arrived[lender])[0][None] if own is None else own


def _by_prompts(batch: TensorDict, prompts: int | None) -> Iterator[TensorDict]:
    """Split (N,) rows into mini-batches of ``prompts`` whole groups; the last mini-batch may be smaller.

    The rows of a group must be consecutive.
    """
    uid = batch["uid"]
    starts = [0, *(int(i) for i in (uid[1:] != uid[:-1]).nonzero().flatten() + 1), len(uid)]
    size = prompts or len(starts)
    for first in range(0, len(starts) - 1, size):
        last = min(first + size, len(starts) - 1)
        yield batch[starts[first] : starts[last]]


def _rows_of_all_ranks(batch: TensorDict) -> list[Row]:
    own: list[tuple[int, int, str, float]] = []
    for indices, rows in batches.forms(batch) if len(batch) else ():
        form = str(batches.row_form(rows[0]))
        own += [(int(i), int(rows["uid"][k]), form, terms(rows[k : k + 1])) for k, i in enumerate(indices)]
    return [Row(number, *row) for number, rows in enumerate(gathered(sorted(own), data_ranks())) for row in rows]


def _planned(rows: Sequence[Row], prompts: int | None) -> Iterator[list[Row]]:
    """The rows of each mini-batch, groups in increasing order of their uid."""
    uids = sorted({row.uid for row in rows})
    size = prompts or len(uids)
    for first in range(0, len(uids), size):
        group = set(uids[first : first + size])
        yield sorted((row for row in rows if row.uid in group), key=lambda row: (row.uid, row.rank, row.place))


def _sum(rows: Sequence[Row]) -> float:
    return float(sum(row.terms for row in rows))


def _dealt(batch: TensorDict, planned: Sequence[Shares]) -> list[list[TensorDict]]:
    """This rank's blocks of each mini-batch, after every rank has sent its rows to the others."""
    held, ranks = _Held(batch), data_ranks()
    sent = [_sent(held, planned, to) for to in range(ranks.size)]
    leaving = [safetensors.save(tensors) if to != ranks.rank else b"" for to, tensors in enumerate(sent)]
    arrived = [safetensors.load(parcel) if parcel else {} for parcel in exchanged(leaving, ranks)]
    arrived[ranks.rank] = sent[ranks.rank]
    pieces = [parcels.by_place(tensors, 2, dims=1) for tensors in arrived]
    return [
        [
            _joined(block, [found[m, b] for found in pieces if (m, b) in found])
            for b, block in enumerate(each[ranks.rank])
        ]
        for m, each in enumerate(planned)
    ]


class _Held:
    """The rows of this rank by their indices."""

    def __init__(self, batch: TensorDict) -> None:
        self._forms = batches.forms(batch) if len(batch) else []
        places = [(int(i), (form, k)) for form, (indices, _) in enumerate(self._forms) for k, i in enumerate(indices)]
        self._places = dict(places)

    def rows(self, indices: Sequence[int]) -> TensorDict:
        """Rows of one form."""
        places = [self._places[index] for index in indices]
        return self._forms[places[0][0]][1][torch.tensor([k for _, k in places])]


def _sent(held: _Held, planned: Sequence[Shares], to: int) -> Tensors:
    """What this rank sends to another one: its rows of block b of mini-batch m there, at the place (m, b)."""
    sent: Tensors = {}
    for m, each in enumerate(planned):
        for b, block in enumerate(each[to]):
            own = [row.place for row in block.rows if row.rank == data_ranks().rank]
            if own:
                sent |= parcels.named(held.rows(own), m, b)
    return sent


def _joined(block: Block, pieces: Sequence[TensorDict]) -> TensorDict:
    """The rows of a block in their order from the pieces of each rank, by rank."""
    sent_order = sorted(range(len(block.rows)), key=lambda k: block.rows[k].rank)
    rows: TensorDict = TensorDict.cat(list(pieces))[torch.tensor(sent_order).argsort()]
    if block.filled:
        weights = rows["loss_weights"] if "loss_weights" in rows.keys() else torch.ones(rows["timesteps"].shape)
        rows["loss_weights"] = torch.cat([weights[:-1], torch.zeros_like(weights[-1:])])
    return rows
