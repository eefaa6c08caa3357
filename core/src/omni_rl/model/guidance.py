"""Classifier-free guidance, for model plugins."""

from __future__ import annotations

from collections.abc import Callable

import torch

from omni_rl.contracts.types import Streams, Tensors
from omni_rl.model.encoding import pad_width

NEGATIVE = "negative_"
"""How conditioning of the negative prompt is prefixed."""

Velocity = Callable[[Streams, torch.Tensor, Tensors], Streams]
"""Of x (B, ...) at t (B,) under the conditioning of one prompt for each row."""


def classifier_free(
    velocity: Velocity, x: Streams, t: torch.Tensor, conditioning: Tensors, scale: float, on: bool
) -> Streams:
    """``negative + scale * (positive - negative)`` of Ho and Salimans (2022), from one call of 2 B rows.

    Two calls take 1.1 to 1.2 times as long where rows and tokens are few (``benchmarks/model_plugins.py``), and as
    long as one where the processor is busy anyway; their activations take less memory in rollout.

    Args:
        conditioning: every tensor of the prompt with its twin of the negative prompt; what has none holds for both.
        on: whether there is guidance; without it the velocity is that of the prompt, from a call of B rows.
    """
    if not on:
        return velocity(x, t, positive(conditioning))
    assert any(n.startswith(NEGATIVE) for n in conditioning), "guidance needs the negative prompt's conditioning"
    both = velocity(twice(x), torch.cat([t, t]), _joined(negative(conditioning), positive(conditioning)))
    guided = {}
    for name, v in both.items():
        without, with_prompt = v.chunk(2)
        guided[name] = without + scale * (with_prompt - without)
    return guided


def positive(conditioning: Tensors) -> Tensors:
    """What the prompt gave, and what belongs to neither text."""
    return {n: v for n, v in conditioning.items() if not n.startswith(NEGATIVE)}


def negative(conditioning: Tensors) -> Tensors:
    """The same names with what the negative prompt gave."""
    return {n: conditioning.get(f"{NEGATIVE}{n}", v) for n, v in positive(conditioning).items()}


def twice(tensors: Tensors) -> Tensors:
    """(2 B, ...) of (B, ...)."""
    return {n: torch.cat([v, v]) for n, v in tensors.items()}


def _joined(first: Tensors, second: Tensors) -> Tensors:
    """Texts of different width are padded on the right, and so are the masks that say where they end."""
    return {n: _one_below_the_other(v, second[n]) for n, v in first.items()}


def _one_below_the_other(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    if first.shape[1:] == second.shape[1:]:
        return torch.cat([first, second])
    width = max(first.shape[1], second.shape[1])
    return torch.cat([pad_width(first, width), pad_width(second, width)])
