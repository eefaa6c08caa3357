"""What crosses the process border: JSON and safetensors, never pickled objects of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from omni_rl.requests import Request
from omni_rl.types import SigmaTable

KEY = "omni_rl"
"""Of a prompt: where the rollout's own message stands in it."""

ADAPTER_ID = 1
"""Of the one adapter that the worker holds."""

ADAPTER_SIDES = (".lora_A.weight", ".lora_B.weight")
"""How the names of an adapter's two tensors end."""


@dataclass(frozen=True)
class Asked:
    """One sample to draw, as the worker needs it.

    Attributes:
        request: as submitted.
        shapes: per stream, the latents of one sample.
        table: the exact schedule.
    """

    request: Request
    shapes: dict[str, tuple[int, ...]]
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


def asked_in(prompt: Any) -> Asked | None:
    """The message in a prompt; None for a prompt of upstream's own (its warm-up)."""
    text = prompt.get(KEY) if isinstance(prompt, Mapping) else None
    return None if text is None else Asked.from_json(text)


def packed(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Named tensors as the bytes of one safetensors file, uint8 (bytes,) on the CPU."""
    return torch.frombuffer(bytearray(save({n: t.contiguous() for n, t in tensors.items()})), dtype=torch.uint8)


def unpacked(data: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inverse of :func:`packed`."""
    return load(data.numpy().tobytes())


def chunks(weights: Mapping[str, torch.Tensor], most: int) -> Iterator[dict[str, torch.Tensor]]:
    """Portions of at most ``most`` bytes, a larger weight alone."""
    part: dict[str, torch.Tensor] = {}
    size = 0
    for name, weight in weights.items():
        if part and size + weight.nbytes > most:
            yield part
            part, size = {}, 0
        part[name], size = weight, size + weight.nbytes
    if part:
        yield part
