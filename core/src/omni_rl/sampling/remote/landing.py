"""Find the parameter that holds each weight in the pipeline of an engine with its own implementation of the model.

Canonical names are those of diffusers: ``<component>.<parameter>``. Engines fuse some weights (``to_q``, ``to_k``,
``to_v`` into ``to_qkv``) and rename others. So a different number is loaded for each name, and then searched for in the
engine's parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

DIGITS = 200
"""Base of the two digits in which numbers are loaded: bfloat16 holds whole numbers up to 256 exactly."""


class Pipeline(Protocol):
    """The methods of an engine's pipeline that are used here."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load weights by canonical name. The result differs between pipelines and is not used."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The pipeline's own parameters."""

    def get_parameter(self, target: str) -> nn.Parameter:
        """The parameter with this name."""


@dataclass(frozen=True)
class Landing:
    """Rows ``first`` to ``last`` of one of the pipeline's own parameters."""

    parameter: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.parameter}[{self.first}:{self.last}]"

    def value(self, pipeline: Pipeline) -> torch.Tensor:
        """The current values of these rows."""
        return pipeline.get_parameter(self.parameter).data[self.first : self.last]

    def is_whole(self, pipeline: Pipeline) -> bool:
        """Whether the weight fills the whole parameter."""
        return self.last - self.first == len(pipeline.get_parameter(self.parameter))


def locate(pipeline: Pipeline, shapes: Mapping[str, Sequence[int]]) -> dict[str, Landing]:
    """For each weight name (with its shape), the pipeline's parameter that holds it.

    The pipeline's own values are restored, also after an error.

    Raises:
        ValueError: no parameter holds one of the weights.
    """
    landings: dict[str, Landing] = {}
    for block in {_block(name): None for name in shapes}:
        # Fused and renamed weights stay in their block, or outside all blocks. A search in all parameters would need a
        # copy of all weights.
        near = {n: p.data for n, p in pipeline.named_parameters() if _block(n) in (block, "")}
        kept = {n: value.clone() for n, value in near.items()}
        try:
            landings |= _landings(pipeline, near, {n: s for n, s in shapes.items() if _block(n) == block})
        finally:
            for name, value in kept.items():
                near[name].copy_(value)
    if missing := shapes.keys() - landings.keys():
        raise ValueError(f"the engine has no place for the weight {min(missing)}")
    return landings


def _landings(
    pipeline: Pipeline, near: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Landing]:
    """Load each weight filled with its number, digit by digit (exact in every precision); search for the numbers."""
    codes = {name: torch.zeros(_rows(value), dtype=torch.int64) for name, value in near.items()}
    device, dtype = next((v.device, v.dtype) for v in near.values())
    for unit in (DIGITS, 1):
        for value in near.values():
            value.zero_()
        digits = {name: number // unit % DIGITS for number, name in enumerate(shapes, 1)}
        weights = ((n, torch.full(tuple(s), digits[n] + 1, device=device, dtype=dtype)) for n, s in shapes.items())
        pipeline.load_weights(weights)
        for name, value in near.items():  # rows without a loaded weight are 0, and their code is negative
            codes[name] += unit * (value.reshape(_rows(value), -1)[:, 0].cpu().long() - 1)
    names, landings = list(shapes), {}
    for parameter, code in codes.items():
        for number in set(code.tolist()) & set(range(1, len(names) + 1)):
            rows = (code == number).nonzero().flatten()
            landings[names[number - 1]] = Landing(parameter, int(rows[0]), int(rows[-1]) + 1)
    return landings


def _rows(value: torch.Tensor) -> int:
    return len(value) if value.ndim else 1


def _block(name: str) -> str:
    """The name of the repeated block that contains a parameter; "" if it is in no block."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])
