"""Helpers for the checks: a row from a condition, and the relative difference of two tensors."""

from __future__ import annotations

import torch

from omni_rl.contracts.verdicts import Row


def judge(name: str, good: bool, detail: str) -> Row:
    """A row with the verdict ok if ``good``, otherwise fail."""
    return Row(name, "ok" if good else "fail", detail)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference, divided by the largest absolute value of ``b``; equal shapes. 0 if both are empty.

    A text of no tokens has embeddings without elements.
    """
    if a.shape == b.shape and not b.numel():
        return 0.0
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-30))
