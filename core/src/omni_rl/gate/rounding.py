"""Measures the effect of rounding: changes the text embeddings by one unit in the last place.

The floor of a comparison is the difference that another batch composition makes. If the engine uses the trainer's own
model, that is all. An engine with its own implementation of the model adds numbers in another order, so it rounds
differently in every layer. In bf16 this effect is larger than that of the batch composition (ADR 8).
"""

from __future__ import annotations

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.types import Tensors
from omni_rl.gate.subject import Sampler
from omni_rl.schedulers.randomness import randn, seed_of


def rounds_otherwise(subject: Sampler) -> bool:
    """Whether the engine has its own implementation of the model and the precision is lower than fp32."""
    return subject.model.dtype != torch.float32 and bool(subject.engine.supplies)


def nudged(text: Tensors, dtype: torch.dtype) -> Tensors:
    """Change every number by one unit in the last place of ``dtype``, up or down, with signs drawn from the name."""
    return {n: v * (1 + torch.finfo(dtype).eps * _signs(n, v)) if v.is_floating_point() else v for n, v in text.items()}


def _signs(name: str, value: torch.Tensor) -> torch.Tensor:
    return randn(seed_of("nudged", name), value.shape).sign().to(value)


def with_nudged_text(batch: TensorDict, dtype: torch.dtype) -> TensorDict:
    """A copy of a trajectory batch (N,) in which the text embeddings are :func:`nudged`."""
    return batch.clone().update(trajectory.text_entries(nudged(trajectory.conditioning_of(batch), dtype), {}))
