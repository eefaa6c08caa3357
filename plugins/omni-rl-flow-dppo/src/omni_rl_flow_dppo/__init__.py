"""Flow-DPPO: a trust region by divergence instead of a clipped ratio (UniRL's flowdppo, verl-omni's ``flow_dppo``).

The ratio of one sample does not measure how far a Gaussian in many dimensions has moved; the KL divergence does:

    KL = mean((mu - mu_old)^2) / (2 s^2)
    L = -A r, or 0 if KL >= threshold and the gradient would increase it further:
        (r > 1 and A > 0) or (r < 1 and A < 0)

r = pi / pi_old of the step; s is each row's own true standard deviation, so the threshold has the same meaning for
every SDE type and step. ``scale: none`` does not divide by s: mean((mu - mu_old)^2) / 2.

Assumptions: those of the policy gradient (:mod:`omni_rl.objectives.policy_gradient`); by default, advantages are not
clipped.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat

from omni_rl.contracts.types import Tensors
from omni_rl.objectives.policy_gradient import PolicyGradient, PolicyGradientOptions, Step
from omni_rl.objectives.windows import RandomlyPlaced, RandomWindow


class FlowDPPOConfig(PolicyGradientOptions, RandomWindow):
    """Options in the section ``algorithm`` with ``name: flow_dppo``."""

    advantage_clip: PositiveFloat | None = Field(None, description="advantages are clipped to [-a, a]; null: no clip")
    threshold: PositiveFloat = Field(1e-5, description="largest divergence from the old policy that may still grow")
    scale: Literal["variance", "none"] = Field("variance", description="divide by s^2 ('variance') or not")


class FlowDPPO(RandomlyPlaced, PolicyGradient):
    """The algorithm hooks of Flow-DPPO."""

    Config = FlowDPPOConfig
    config: FlowDPPOConfig
    compares_means = True

    def surrogate(self, step: Step) -> tuple[torch.Tensor, Tensors]:
        """-A r; 0 for steps beyond the trust region."""
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
