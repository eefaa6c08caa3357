"""A verdict, and how a table of them is shown."""

from __future__ import annotations

import torch

from omni_rl.contracts.verdicts import Row


def judge(name: str, good: bool, detail: str) -> Row:
    """A row that is ok or fails."""
    return Row(name, "ok" if good else "fail", detail)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value of ``b``; both of one shape."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-30))
