"""Group-relative advantages, written once for every algorithm."""

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

    std: StdScope = Field("global", description="what advantages are divided by the standard deviation of")
    combine: Combination = Field(
        "sum", description="several rewards: normalise their weighted sum, or each before they are summed (gdpo)"
    )
    advantage_clip: PositiveFloat | None = Field(5.0, description="advantages are clipped to [-a, a]; null: not")

    def advantages(
        self,
        rewards: torch.Tensor,
        uid: torch.Tensor,
        components: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
    ) -> torch.Tensor:
        """(N,) fp32; arguments as of :func:`omni_rl.contracts.hooks.compute_advantages`."""
        if self.combine == "gdpo":
            found = gdpo_advantages(components, weights, uid, self.std)
        else:
            found = group_advantages(rewards, uid, self.std)
        limit = self.advantage_clip
        return found if limit is None else found.clamp(-limit, limit)


class GroupRelative:
    """The hook of algorithms whose options are :class:`AdvantageOptions`."""

    config: AdvantageOptions

    @hookimpl
    def compute_advantages(
        self,
        rewards: torch.Tensor,
        uid: torch.Tensor,
        components: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
    ) -> torch.Tensor:
        """(N,) fp32, by the options."""
        return self.config.advantages(rewards, uid, components, weights)


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


def gdpo_advantages(
    components: Mapping[str, torch.Tensor], weights: Mapping[str, float], uid: torch.Tensor, std: StdScope = "group"
) -> torch.Tensor:
    """GDPO (arXiv 2601.05242): every reward's own group-relative advantages, weighted, summed, and divided by the
    standard deviation of these sums over the batch plus 1e-4. (N,) fp32.

    A reward whose range is a hundred times another's counts no more than its weight says. Groups without a difference
    in any reward give exactly 0: sums are not centred again, as each of them has mean 0 in every group already.
    """
    sums = sum(weights[label] * group_advantages(values, uid, std).double() for label, values in components.items())
    assert isinstance(sums, torch.Tensor), "a run has at least one reward"
    return (sums / (sums.std(correction=0) + EPS)).float()
