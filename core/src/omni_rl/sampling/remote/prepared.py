"""Requests made ready for a sampler in another process: everything that it must not work out for itself.

Text and schedule are settled where the trainer is, by the run's own hooks, and travel with each request (ADR 7).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import SigmaTable, Tensors
from omni_rl.model.encoding import encode

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Asked:
    """One sample to draw, without its text.

    Attributes:
        request: as submitted.
        shapes: per stream, the latents of one sample.
        table: the exact schedule.
    """

    request: Request
    shapes: Shapes
    table: SigmaTable

    def to_json(self) -> str:
        """One line; fp32 numbers read back exactly."""
        table = {"timesteps": self.table.timesteps.tolist(), "sigmas": self.table.sigmas.tolist()}
        return json.dumps({"request": self.request.to_json(), "shapes": self.shapes, "table": table})

    @staticmethod
    def from_json(text: str) -> Asked:
        """The inverse of :meth:`to_json`."""
        data = json.loads(text)
        shapes = {stream: tuple(shape) for stream, shape in data["shapes"].items()}
        table = SigmaTable(torch.tensor(data["table"]["timesteps"]), torch.tensor(data["table"]["sigmas"]))
        return Asked(Request.from_json(data["request"]), shapes, table)


@dataclass(frozen=True)
class Prepared:
    """One sample to draw, with its text.

    Attributes:
        asked: request, shapes, schedule.
        conditioning: (1, ...) by name, fp32 or integer, on the model's device.
        tokens: (1, L) by name, on the CPU; empty where the model's plugin names none.
    """

    asked: Asked
    conditioning: Tensors
    tokens: Tensors


def prepare(model: LoadedModel, hooks: Any, requests: Sequence[Request]) -> list[Prepared]:
    """In the order of the requests; what samples of one prompt share is worked out once."""
    shared: dict[object, tuple[Shapes, SigmaTable]] = {}
    found = []
    for request in requests:
        conditioning, tokens = encode(model, [request])
        alike = (request.prompt, request.negative_prompt, request.steps, frozen(request.call))
        if alike not in shared:
            shared[alike] = _plan(model, hooks, request, conditioning)
        found.append(Prepared(Asked(request, *shared[alike]), conditioning, tokens))
    return found


def _plan(model: LoadedModel, hooks: Any, request: Request, conditioning: Tensors) -> tuple[Shapes, SigmaTable]:
    shapes = hooks.prepare_latents(model=model, conditioning=conditioning, call=request.call)
    table: SigmaTable = hooks.set_timesteps(
        model=model, steps=request.steps, shapes=shapes, conditioning=conditioning, call=request.call
    )
    return {stream: tuple(shape) for stream, shape in shapes.items()}, table
