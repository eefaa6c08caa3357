"""GRPO-Guard (arXiv 2510.22319): a ratio that is centred at 1 in every step, and steps that weigh the same.

The plain log-ratio of a Gaussian step with noise eps, mean mu and standard deviation s is

    log r = mean(eps (mu - mu_old)) / s - mean((mu - mu_old)^2) / (2 s^2)

whose second term pushes ratios below 1, so that only the lower clip is ever reached, and whose scale 1 / s differs from
step to step. Guard removes both: multiplied by s and without the second term it is

    log r_guard = mean(eps (mu - mu_old)),        L = 1 / h * max(-A r, -A clip(r, 1 - c, 1 + c))

with h = sigma - sigma' of the step. eps is the very noise that the rollout drew, each row has its own s and h, and so
this holds for ``sde``, ``dance_sde`` and ``cps``, and for rows of different windows in one batch.

Assumptions: samples were drawn with noise, from stored keys; importance weights of a correction multiply L as it is.
"""

from __future__ import annotations

import torch

from omni_rl.contracts.types import Tensors
from omni_rl.objectives.policy_gradient import ClippedOptions, PolicyGradient, Step, clipped
from omni_rl.objectives.windows import RandomlyPlaced, RandomWindow


class GRPOGuardConfig(ClippedOptions, RandomWindow):
    """Options beside ``algorithm.name: grpo_guard``."""


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
