"""FlowGRPO (arXiv 2505.05470): GRPO on the Gaussian transitions of SDE denoising steps.

For a group of samples of one prompt with rewards r, and r_t(theta) the ratio of the step's density under the current
and the rollout's weights,

    A = (r - mean_group(r)) / std,        L = mean_t max(-A r_t, -A clip(r_t, 1 - c, 1 + c)) + beta KL(pi || pi_ref)

Assumptions: log-probs are means over latent elements, so ratios lie close to 1 and the clip range is small (1e-5 to
1e-3); all samples of a group share one SDE window; the KL uses the true variance of the transition, so beta means the
same for every SDE type. With ``rollout.share_initial_noise`` the steps before the window are drawn once per prompt
(Flow-GRPO-Fast).
"""

from __future__ import annotations

from omni_rl.objectives.policy_gradient import ClippedOptions, PolicyGradient
from omni_rl.objectives.windows import RandomlyPlaced, RandomWindow


class FlowGRPOConfig(ClippedOptions, RandomWindow):
    """Options in the section ``algorithm`` with ``name: flow_grpo``."""


class FlowGRPO(RandomlyPlaced, PolicyGradient):
    """The algorithm hooks of FlowGRPO."""

    Config = FlowGRPOConfig
    config: FlowGRPOConfig
