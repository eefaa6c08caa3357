"""Where a weight stands in the worker's pipeline.

Canonical names are diffusers': ``<component>.<parameter>``. Upstream fuses some of them (``to_q``, ``to_k``, ``to_v``
into ``to_qkv``) and renames others; what it does with one is found out by loading NaN under its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn


class Pipeline(Protocol):
    """What of an upstream pipeline is used here."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load by canonical name. What it answers differs from pipeline to pipeline."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The pipeline's own parameters."""

    def get_parameter(self, target: str) -> nn.Parameter:
        """One of them by name."""


@dataclass(frozen=True)
class Landing:
    """Rows ``first`` to ``last`` of one of the pipeline's own parameters."""

    parameter: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.parameter}[{self.first}:{self.last}]"

    def value(self, pipeline: Pipeline) -> torch.Tensor:
        """What stands there now."""
        return pipeline.get_parameter(self.parameter).data[self.first : self.last]

    def is_whole(self, pipeline: Pipeline) -> bool:
        """Whether the weight has the parameter to itself."""
        return self.last - self.first == len(pipeline.get_parameter(self.parameter))


def locate(pipeline: Pipeline, name: str, shape: Sequence[int]) -> Landing:
    """Where a weight of this name and shape lands. What stood in the same block is put back.

    Raises:
        ValueError: nowhere.
    """
    block = _block(name)  # what is fused or renamed stays in its block; looking everywhere reads all weights
    own = dict(sorted(pipeline.named_parameters(), key=lambda item: not item[0].startswith(block)))
    kept = {n: p.data.clone() for n, p in own.items() if n.startswith(block)}
    pipeline.load_weights([(name, torch.full(tuple(shape), torch.nan))])
    for parameter, value in own.items():
        rows = value.data.reshape(len(value) if value.ndim else 1, -1)[:, 0].isnan().nonzero().flatten()
        if len(rows):
            if parameter in kept:
                value.data.copy_(kept[parameter])
            return Landing(parameter, int(rows[0]), int(rows[-1]) + 1)
    raise ValueError(f"the engine has no place for the weight {name}")


def _block(name: str) -> str:
    """The repeated block that a parameter belongs to; without one, the module that it belongs to."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[:-1] if number is None else parts[: number + 1]) + "."
