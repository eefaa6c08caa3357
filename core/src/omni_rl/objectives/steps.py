"""Losses of single steps, put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omni_rl.contracts.types import LossOutput


def joined(outputs: Sequence[LossOutput]) -> LossOutput:
    """(B, S) of S outputs whose tensors are (B,), one for each step."""
    metrics = {name: torch.stack([each.metrics[name] for each in outputs], dim=1) for name in outputs[0].metrics}
    return LossOutput(torch.stack([each.loss for each in outputs], dim=1), metrics)
