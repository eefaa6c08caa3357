"""What rounding does: how far answers move when the text that a model is told moves by the last bit of its precision.

The floor of a comparison is what another batch composition changes. For an engine that computes with the trainer's own
model that is all there is; another implementation of the model, which orders its additions otherwise, also rounds
otherwise, at every layer, and in bf16 that shows where no batch composition does (ADR 8).
"""

from __future__ import annotations

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.types import Tensors
from omni_rl.gate.subject import Sampler
from omni_rl.schedulers.randomness import randn, seed_of


def rounds_otherwise(subject: Sampler) -> bool:
    """Whether the engine has an implementation of the model of its own, in a precision where that shows."""
    return subject.model.dtype != torch.float32 and bool(subject.engine.supplies)


def nudged(text: Tensors, dtype: torch.dtype) -> Tensors:
    """Every number up or down by one unit in the last place of ``dtype``, by signs that its name draws."""
    return {n: v * (1 + torch.finfo(dtype).eps * _signs(n, v)) if v.is_floating_point() else v for n, v in text.items()}


def _signs(name: str, value: torch.Tensor) -> torch.Tensor:
    return randn(seed_of("nudged", name), value.shape).sign().to(value)


def with_nudged_text(batch: TensorDict, dtype: torch.dtype) -> TensorDict:
    """A trajectory batch (N,) whose text is :func:`nudged`."""
    return batch.clone().update(trajectory.text_entries(nudged(trajectory.conditioning_of(batch), dtype), {}))
