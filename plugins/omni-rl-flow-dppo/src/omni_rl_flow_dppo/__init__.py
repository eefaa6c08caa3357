"""Flow-DPPO: a trust region by divergence instead of a clipped ratio (UniRL's flowdppo, verl-omni's ``flow_dppo``).

A ratio says little about how far a Gaussian in many dimensions has moved; its KL divergence says it exactly:

    KL = mean((mu - mu_old)^2) / (2 s^2)
    L = -A r where the step is kept, 0 where KL >= threshold and the gradient would push further away:
        (r > 1 and A > 0) or (r < 1 and A < 0)

r = pi / pi_old of the step; s is each row's own true standard deviation, so the threshold means the same for every SDE
type and step. ``scale: none`` leaves s out: mean((mu - mu_old)^2) / 2.

Assumptions: those of the policy gradient (:mod:`omni_rl.objectives.policy_gradient`); advantages are not clipped unless
asked for.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat

from omni_rl.contracts.types import Tensors
from omni_rl.objectives.policy_gradient import PolicyGradient, PolicyGradientOptions, Step
from omni_rl.objectives.windows import RandomlyPlaced, RandomWindow


class FlowDPPOConfig(PolicyGradientOptions, RandomWindow):
    """Options beside ``algorithm.name: flow_dppo``."""

    advantage_clip: PositiveFloat | None = Field(None, description="advantages are clipped to [-a, a]; null: not")
    threshold: PositiveFloat = Field(1e-5, description="divergence from the old policy above which a step may not grow")
    scale: Literal["variance", "none"] = Field("variance", description="what the divergence is divided by")


class FlowDPPO(RandomlyPlaced, PolicyGradient):
    """The algorithm hooks of Flow-DPPO."""

    Config = FlowDPPOConfig
    config: FlowDPPOConfig
    compares_means = True

    def surrogate(self, step: Step) -> tuple[torch.Tensor, Tensors]:
        """-A r of the steps that are kept."""
        ratio = step.log_ratio.exp()  # (B,)
        if self.config.scale == "variance":
            kl = step.kl_old()
        else:
            kl = step.mean({n: d**2 / 2 for n, d in step.shift().items()})
        away = ((ratio > 1) & (step.advantages > 0)) | ((ratio < 1) & (step.advantages < 0))
        masked = (kl.detach() >= self.config.threshold) & away
        loss = torch.where(masked, 0.0, -step.advantages * ratio)
        return loss, {
            "ratio_mean": ratio,
            "logp_absdiff_max": step.log_ratio.abs(),
            "ppo_kl": -step.log_ratio,
            "kl_old": kl,
            "kl_mask_fraction": masked.float(),
        }
