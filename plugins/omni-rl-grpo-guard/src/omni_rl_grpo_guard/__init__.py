"""GRPO-Guard (arXiv 2510.22319): a ratio that is centred at 1 in every step, and equal weights for all steps.

The plain log-ratio of a Gaussian step with noise eps, mean mu and standard deviation s is

    log r = mean(eps (mu - mu_old)) / s - mean((mu - mu_old)^2) / (2 s^2)

The second term makes ratios smaller than 1, so that only the lower clip is reached, and the scale 1 / s differs between
steps. Guard removes both: it multiplies by s and drops the second term,

    log r_guard = mean(eps (mu - mu_old)),        L = 1 / h * max(-A r, -A clip(r, 1 - c, 1 + c))

with h = sigma - sigma' of the step. eps is exactly the noise of the rollout, and each row has its own s and h. So this
is correct for ``sde``, ``dance_sde`` and ``cps``, and for rows with different windows in one batch.

Assumptions: samples were drawn with noise from stored keys; importance weights of a correction multiply L.
"""

from __future__ import annotations

import torch

from omni_rl.contracts.types import Tensors
from omni_rl.objectives.policy_gradient import ClippedOptions, PolicyGradient, Step, clipped
from omni_rl.objectives.windows import RandomlyPlaced, RandomWindow


class GRPOGuardConfig(ClippedOptions, RandomWindow):
    """Options in the section ``algorithm`` with ``name: grpo_guard``."""


class GRPOGuard(RandomlyPlaced, PolicyGradient):
    """The algorithm hooks of GRPO-Guard."""

    Config = GRPOGuardConfig
    config: GRPOGuardConfig
    compares_means = True

    def surrogate(self, step: Step) -> tuple[torch.Tensor, Tensors]:
        """The clipped surrogate of the centred ratio, divided by h."""
        log_ratio = step.mean({n: step.noise[n].to(d) * d for n, d in step.shift().items()})  # (B,)
        loss, metrics = clipped(step.advantages, log_ratio, *self.config.clip)
        h = next(iter(step.now.transitions.values())).sqrt_dt ** 2  # (B,)
        return loss / h.to(loss), metrics
