"""Group-relative advantages, shared by all algorithms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from omni_rl.contracts.hooks import hookimpl

StdScope = Literal["global", "group", "none"]
Combination = Literal["sum", "gdpo"]
EPS = 1e-4


class AdvantageOptions(BaseModel):
    """How rewards become advantages: options that algorithms share."""

    model_config = ConfigDict(extra="forbid")

    std: StdScope | None = Field(
        None,
        description="divide advantages by the standard deviation of all rewards ('global'), of the group ('group'), or "
        "not ('none'); null: 'global' with combine: sum, 'group' with combine: gdpo",
    )
    combine: Combination = Field(
        "sum",
        description="several rewards: 'sum' normalises their weighted sum, 'gdpo' each reward before they are summed",
    )
    advantage_clip: PositiveFloat | None = Field(
        5.0, description="a: advantages are clipped to [-a, a]; null: no clipping"
    )

    def advantages(
        self,
        rewards: torch.Tensor,
        uid: torch.Tensor,
        components: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
    ) -> torch.Tensor:
        """(N,) fp32; the arguments are those of :func:`omni_rl.contracts.hooks.compute_advantages`."""
        if self.combine == "gdpo":
            advantages = gdpo_advantages(components, weights, uid, self.std or "group")
        else:
            advantages = group_advantages(rewards, uid, self.std or "global")
        limit = self.advantage_clip
        return advantages if limit is None else advantages.clamp(-limit, limit)


class GroupRelative:
    """Implements ``compute_advantages`` for algorithms whose options include :class:`AdvantageOptions`."""

    config: AdvantageOptions

    @hookimpl
    def compute_advantages(
        self,
        rewards: torch.Tensor,
        uid: torch.Tensor,
        components: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
    ) -> torch.Tensor:
        """(N,) fp32, computed as the options say."""
        return self.config.advantages(rewards, uid, components, weights)


def group_advantages(rewards: torch.Tensor, uid: torch.Tensor, std: StdScope = "global") -> torch.Tensor:
    """(r - mean of the group) / (std + 1e-4), (N,) fp32, for rewards (N,) with groups by ``uid`` (N,).

    ``std`` is computed over the whole batch (``global``, Flow-GRPO, arXiv 2505.05470) or over the group (``group``,
    GRPO, arXiv 2402.03300); ``none`` does not divide (Dr.GRPO, arXiv 2503.20783). It is the population standard
    deviation (ddof 0). A group whose rewards are all equal, and a group of one, give exactly 0.

    Raises:
        AssertionError: a reward is not finite; the caller must drop missing rewards before.
    """
    assert bool(rewards.isfinite().all()), "drop missing rewards before computing advantages"
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


def gdpo_advantages(
    components: Mapping[str, torch.Tensor], weights: Mapping[str, float], uid: torch.Tensor, std: StdScope = "group"
) -> torch.Tensor:
    """GDPO (arXiv 2601.05242): (N,) fp32.

    Computes group-relative advantages of each reward, sums them by weight, and divides by the standard deviation of
    these sums over the batch plus 1e-4. So only the weight of a reward matters, not its range. Groups without a
    difference in any reward give exactly 0. The sums are not centred again: their mean is already 0 in every group.
    """
    sums = sum(weights[label] * group_advantages(values, uid, std).double() for label, values in components.items())
    assert isinstance(sums, torch.Tensor), "a run has at least one reward"
    return (sums / (sums.std(correction=0) + EPS)).float()
