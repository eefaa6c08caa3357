"""Prepare requests for an engine in another process.

The driver computes text embeddings, latent shapes and schedules with the run's own hooks, and sends them with each
request (ADR 7), so that the engine does not compute them differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import SigmaTable, Tensors
from omni_rl.model.encoding import encode
from omni_rl.sampling.schedule import tables_of

Shapes = dict[str, tuple[int, ...]]
Tables = Mapping[str, SigmaTable]


@dataclass(frozen=True)
class Asked:
    """One sample to draw, without text embeddings.

    Attributes:
        request: the request that was submitted.
        shapes: per stream, the shape of one sample's latents.
        tables: the exact schedule of each stream.
    """

    request: Request
    shapes: Shapes
    tables: Mapping[str, SigmaTable]

    def to_json(self) -> str:
        """One line of JSON; fp32 numbers are read back exactly."""
        tables = {n: {"timesteps": t.timesteps.tolist(), "sigmas": t.sigmas.tolist()} for n, t in self.tables.items()}
        return json.dumps({"request": self.request.to_json(), "shapes": self.shapes, "tables": tables})

    @property
    def table(self) -> SigmaTable:
        """The schedule of the first stream."""
        return next(iter(self.tables.values()))

    @staticmethod
    def from_json(text: str) -> Asked:
        """The inverse of :meth:`to_json`."""
        data = json.loads(text)
        shapes = {stream: tuple(shape) for stream, shape in data["shapes"].items()}
        tables = {
            stream: SigmaTable(torch.tensor(table["timesteps"]), torch.tensor(table["sigmas"]))
            for stream, table in data["tables"].items()
        }
        return Asked(Request.from_json(data["request"]), shapes, tables)


@dataclass(frozen=True)
class Prepared:
    """One sample to draw, with text embeddings.

    Attributes:
        asked: request, shapes and schedules.
        conditioning: tensors (1, ...) by name, fp32 or integer, on the model's device.
        tokens: token ids and masks (1, L) by name, on the CPU; empty if the pipeline encodes text itself.
    """

    asked: Asked
    conditioning: Tensors
    tokens: Tensors


def prepare(model: LoadedModel, hooks: Any, requests: Sequence[Request]) -> list[Prepared]:
    """Prepare requests, in order. Shapes and schedules are computed once per prompt and its arguments."""
    shared: dict[object, tuple[Shapes, Tables]] = {}
    prepared = []
    for request in requests:
        conditioning, tokens = encode(model, [request])
        key = (request.prompt, request.negative_prompt, request.steps, frozen(request.call))
        if key not in shared:
            shared[key] = _plan(model, hooks, request, conditioning)
        prepared.append(Prepared(Asked(request, *shared[key]), conditioning, tokens))
    return prepared


def _plan(model: LoadedModel, hooks: Any, request: Request, conditioning: Tensors) -> tuple[Shapes, Tables]:
    shapes = hooks.prepare_latents(model=model, conditioning=conditioning, call=request.call)
    tables: Tables = tables_of(model, hooks, request, shapes, conditioning)
    return {stream: tuple(shape) for stream, shape in shapes.items()}, tables
