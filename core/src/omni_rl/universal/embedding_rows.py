"""Text embeddings as rows: the form in which a trajectory keeps the outputs of ``encode_prompt``, and back.

A trajectory keeps tensors (B, ...). Pipelines also return a list with a tensor for every prompt, tensors whose second
dimension is the batch, and tensors as wide as a prompt is long, with no mask that would let them share a batch. The
names of the rows tell the form, so that any process can restore what the pipeline takes:

===========================  ==================================================================================
``NAME``                     (B, ...) as it is
``NAME``, ``NAME_list_mask``   a list of (L_i, ...): rows are padded to (B, L, ...), the mask (B, L) tells L_i
``NAME``, ``NAME_parts_mask``  a list of lists: a prompt's parts are concatenated, the mask numbers them from 1
``NAME``, ``NAME_width_mask``  (B, L_i, ...), equal L_i in a call: rows are padded, and calls are made width by width
``NAME@1``                   the batch is the second dimension, (N, B, ...): rows are (B, N, ...)
``NAME@text``                texts for an argument ``NAME``: UTF-8, padded, with ``NAME@text_mask``
``NAME@ends``                (B + 1,) cumulative numbers of tokens, from 0 on: rows (B,) are each prompt's number
===========================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from omni_rl.contracts.types import Tensors

_SUFFIXES = {"list": "_list_mask", "parts": "_parts_mask", "width": "_width_mask"}
_SECOND, _ENDS, _TEXT = "@1", "@ends", "@text"

Form = Literal["rows", "list", "parts", "width", "second", "ends", "fixed"]
"""How one output holds its rows. ``fixed``: it is the same for any number of prompts, so it holds no rows."""


@dataclass(frozen=True)
class Forms:
    """How the outputs of a pipeline's ``encode_prompt`` hold their rows, by name.

    Attributes:
        kinds: the form of each output.
        growing: outputs as wide as the longest prompt of a call that have a mask, and these masks.
        masks: the dtype of each mask, also of one that is None where nothing is padded.
    """

    kinds: Mapping[str, Form]
    growing: frozenset[str] = frozenset()
    masks: Mapping[str, torch.dtype] = field(default_factory=dict)

    def by_width(self) -> Forms:
        """The same with each prompt encoded alone, as wide as it is: for pipelines that see masked tokens after all."""
        return replace(self, kinds={**self.kinds, **dict.fromkeys(self.growing, "width")}, growing=frozenset())

    @property
    def one_by_one(self) -> bool:
        """Whether each prompt is encoded alone, because its embeddings depend on the call's other prompts."""
        return "width" in self.kinds.values()


def find_forms(one: Mapping[str, Any], two: Mapping[str, Any]) -> Forms:
    """The forms of what ``encode_prompt`` returned for one short text, and for two of which the second is long."""
    kinds = {name: _kind(name, value, two) for name, value in one.items() if name in two}
    rows = [name for name, kind in kinds.items() if kind == "rows"]
    masks = {n: v.dtype for n, v in two.items() if n.endswith("_mask") and isinstance(v, torch.Tensor)}
    return Forms(kinds, frozenset(name for name in rows if _grows(name, one[name], two[name])), masks)


def _grows(name: str, alone: Any, pair: Any) -> bool:
    """Whether the second dimension grows with the longest prompt; a mask may be None where nothing is padded."""
    if not isinstance(pair, torch.Tensor):
        return False
    return "mask" in name if alone is None else alone.ndim > 1 and alone.shape[1] != pair.shape[1]


def _kind(name: str, alone: Any, two: Mapping[str, Any]) -> Form:
    pair = two[name]
    if isinstance(pair, list):
        return "parts" if any(isinstance(each, list) for each in pair) else "list"
    if not _tensors([alone, pair]) or alone.ndim != pair.ndim:
        return "rows"  # None, where there is no padding or no guidance
    if _is_cumulative(alone, 1) and _is_cumulative(pair, 2):
        return "ends"
    grown = [d for d, sizes in enumerate(zip(alone.shape, pair.shape, strict=True)) if sizes == (1, 2)]
    if 0 not in grown:
        return "second" if 1 in grown else "fixed"
    wider = {b for a, b in zip(alone.shape[1:], pair.shape[1:], strict=True) if a != b}
    return "width" if wider and "mask" not in name and not _masked(name, wider, two) else "rows"


def _is_cumulative(value: torch.Tensor, rows: int) -> bool:
    """Whether these are cumulative lengths, as attention over packed sequences takes them."""
    return value.shape == (rows + 1,) and int(value[0]) == 0 and bool((value.diff() > 0).all())


def _tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(v, torch.Tensor) for v in values)


def _masked(name: str, widths: set[int], others: Mapping[str, Any]) -> bool:
    """Whether a mask (B, L) of such a width belongs to the same prompts, positive or negative."""
    negative = name.startswith("negative_")
    masks = [o for n, o in others.items() if "mask" in n and n.startswith("negative_") == negative and _tensors([o])]
    return any(mask.ndim == 2 and mask.shape[1] in widths for mask in masks)


def to_rows(name: str, values: Sequence[Any], kind: Form) -> Tensors:
    """One output of one or more calls as rows, under names that tell its form.

    Args:
        values: what each call returned for ``name``, B rows in total.
    """
    if kind in _SUFFIXES:
        rows = [row if isinstance(row, list) else [row] for value in values for row in value]
        masks = [
            torch.cat([part.new_full((len(part),), i, dtype=torch.long) for i, part in enumerate(row, 1)])
            for row in rows
        ]
        pad = torch.nn.utils.rnn.pad_sequence
        return {name: pad([torch.cat(row) for row in rows], True), name + _SUFFIXES[kind]: pad(masks, True)}
    if kind == "second":
        return {name + _SECOND: torch.cat([value.transpose(0, 1) for value in values])}
    if kind == "ends":
        return {name + _ENDS: torch.cat([value.diff() for value in values])}
    return {name: torch.cat(list(values))}


def text_rows(argument: str, texts: Sequence[str]) -> Tensors:
    """Texts for an argument of ``__call__``, as rows."""
    values = [torch.tensor(list(text.encode()), dtype=torch.long) for text in texts]
    mask = [torch.ones_like(value) for value in values]
    name = argument + _TEXT
    pad = torch.nn.utils.rnn.pad_sequence
    return {name: pad(values, True), f"{name}_mask": pad(mask, True)}


def mask_of(name: str, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """(B, L) of the padding that :func:`to_rows` added to ``name``, or None."""
    return next((conditioning[name + s] for s in _SUFFIXES.values() if name + s in conditioning), None)


def as_returned(conditioning: Tensors) -> dict[str, Any]:
    """The inverse of :func:`to_rows`, for rows of one width (see :func:`by_width`)."""
    masks = (*_SUFFIXES.values(), f"{_TEXT}_mask")
    return dict(_returned(n, value, conditioning) for n, value in conditioning.items() if not n.endswith(masks))


def _returned(name: str, value: torch.Tensor, conditioning: Tensors) -> tuple[str, Any]:
    if name.endswith(_SECOND):
        return name.removesuffix(_SECOND), value.transpose(0, 1)
    if name.endswith(_ENDS):
        ends = torch.nn.functional.pad(value.cumsum(0), (1, 0))
        return name.removesuffix(_ENDS), ends.to(value.dtype)
    if name.endswith(_TEXT):
        counts = conditioning[f"{name}_mask"].sum(1).tolist()
        texts = [bytes(row[:n]).decode() for row, n in zip(value.tolist(), counts, strict=True)]
        return name.removesuffix(_TEXT), texts
    mask = mask_of(name, conditioning)
    if mask is None:
        return name, value
    if name + _SUFFIXES["list"] in conditioning:
        return name, [row[: int(count)] for row, count in zip(value, mask.sum(1), strict=True)]
    if name + _SUFFIXES["parts"] in conditioning:
        return name, [[row[m == i] for i in range(1, int(m.max()) + 1)] for row, m in zip(value, mask, strict=True)]
    return name, value[:, : int(mask.sum(1).max())]


def one_by_one(conditioning: Tensors) -> bool:
    """Whether each prompt was encoded alone, because the pipeline would pad it to the width of others."""
    return any(name.endswith(_SUFFIXES["width"]) for name in conditioning)


def by_width(conditioning: Tensors, rows: int) -> list[torch.Tensor]:
    """Indices (b,) of the rows that a pipeline can take in one call, over all ``rows``."""
    masks = [m for n, m in conditioning.items() if n.endswith(_SUFFIXES["width"])]
    if not masks:
        return [torch.arange(rows)]
    widths = torch.stack([m.sum(1) for m in masks], dim=1).cpu()  # (B, outputs)
    return [(widths == each).all(1).nonzero().flatten() for each in widths.unique(dim=0)]
