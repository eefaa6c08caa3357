"""Group-relative advantages, written once for every algorithm."""

from __future__ import annotations

from typing import Literal

import torch

StdScope = Literal["global", "group", "none"]
EPS = 1e-4


def group_advantages(rewards: torch.Tensor, uid: torch.Tensor, std: StdScope = "global") -> torch.Tensor:
    """(r - mean of its group) / (std + 1e-4), (N,) fp32, for rewards (N,) grouped by ``uid`` (N,).

    ``std`` is taken over the whole batch (``global``, Flow-GRPO, arXiv 2505.05470), over the group (``group``, GRPO,
    arXiv 2402.03300), or not at all (``none``, Dr.GRPO, arXiv 2503.20783). It is the population standard deviation
    (ddof 0). A group whose rewards are all equal, and a group of one, give exactly 0.

    Raises:
        AssertionError: a reward is not finite; missing rewards must be dropped before.
    """
    assert bool(rewards.isfinite().all()), "missing rewards never reach the advantages"
    values = rewards.double()
    advantages = torch.zeros_like(values)
    scale = values.std(correction=0) if std == "global" else torch.ones((), dtype=torch.float64)
    for group in uid.unique():
        rows = uid == group
        member = values[rows]
        if bool((member == member[0]).all()):
            continue  # exactly 0: the mean of equal floats may differ from them in the last bit
        if std == "group":
            scale = member.std(correction=0)
        advantages[rows] = (member - member.mean()) / (scale + EPS if std != "none" else 1.0)
    return advantages.float()
