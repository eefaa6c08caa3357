"""Classifier-free guidance, for model plugins."""

from __future__ import annotations

from collections.abc import Callable

import torch

from omni_rl.contracts.types import Streams, Tensors
from omni_rl.model.encoding import pad_width

NEGATIVE = "negative_"
"""Prefix of the names of the negative prompt's conditioning."""

Velocity = Callable[[Streams, torch.Tensor, Tensors], Streams]
"""Velocities of x (B, ...) at t (B,) with the conditioning of one prompt for each row."""


def classifier_free(
    velocity: Velocity, x: Streams, t: torch.Tensor, conditioning: Tensors, scale: float, on: bool
) -> Streams:
    """``negative + scale * (positive - negative)`` of Ho and Salimans (2022), from one call of 2 B rows.

    Two calls of B rows would take 1.1 to 1.2 times as long where rows and tokens are few
    (``benchmarks/model_plugins.py``), and equally long for large ones; their activations take less memory in rollout.

    Args:
        conditioning: tensors of the prompt, and of the negative prompt under ``negative_`` and the same name. A tensor
            without a negative one is used for both.
        on: whether there is guidance. Without it the velocity is the prompt's, from a call of B rows.
    """
    if not on:
        return velocity(x, t, positive(conditioning))
    assert any(n.startswith(NEGATIVE) for n in conditioning), "guidance needs the negative prompt's conditioning"
    both = velocity(twice(x), torch.cat([t, t]), _concatenated(negative(conditioning), positive(conditioning)))
    guided = {}
    for name, v in both.items():
        without, with_prompt = v.chunk(2)
        guided[name] = without + scale * (with_prompt - without)
    return guided


def positive(conditioning: Tensors) -> Tensors:
    """The conditioning without that of the negative prompt."""
    return {n: v for n, v in conditioning.items() if not n.startswith(NEGATIVE)}


def negative(conditioning: Tensors) -> Tensors:
    """The same names as :func:`positive`, with the negative prompt's tensors where there are any."""
    return {n: conditioning.get(f"{NEGATIVE}{n}", v) for n, v in positive(conditioning).items()}


def twice(tensors: Tensors) -> Tensors:
    """(2 B, ...) of (B, ...)."""
    return {n: torch.cat([v, v]) for n, v in tensors.items()}


def _concatenated(first: Tensors, second: Tensors) -> Tensors:
    """Concatenate rows. Texts of different width are padded on the right, as are their masks."""
    return {n: _padded_and_concatenated(v, second[n]) for n, v in first.items()}


def _padded_and_concatenated(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    if first.shape[1:] == second.shape[1:]:
        return torch.cat([first, second])
    width = max(first.shape[1], second.shape[1])
    return torch.cat([pad_width(first, width), pad_width(second, width)])
