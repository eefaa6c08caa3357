"""FlowGRPO (arXiv 2505.05470): GRPO on the Gaussian transitions of SDE denoising steps.

For a group of samples of one prompt with rewards r, and r_t(theta) the ratio of the step's density under the current
and the rollout's weights,

    A = (r - mean_group(r)) / std,        L = mean_t max(-A r_t, -A clip(r_t, 1 - c, 1 + c)) + beta KL(pi || pi_ref)

Assumptions: log-probs are means over latent elements, so ratios lie close to 1 and the clip range is small (1e-5 to
1e-3); all samples of a group share one SDE window; the KL uses the true variance of the transition, so beta means the
same for every SDE type.
"""

from __future__ import annotations

import random
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.advantages import StdScope, group_advantages
from omni_rl.errors import ConfigError
from omni_rl.randomness import seed_of
from omni_rl.requests import Window
from omni_rl.schedulers.transition import joint_kl
from omni_rl.trajectory import masks_of
from omni_rl.types import Evaluation, LossOutput, Policy


class FlowGRPOConfig(BaseModel):
    """Options beside ``algorithm.name: flow_grpo``."""

    model_config = ConfigDict(extra="forbid")

    clip_range: PositiveFloat = Field(1e-4, description="c: ratios are clipped to [1 - c, 1 + c]")
    advantage_clip: PositiveFloat = Field(5.0, description="advantages are clipped to [-a, a]")
    std: StdScope = Field("global", description="what advantages are divided by the standard deviation of")
    window_size: PositiveInt | None = Field(None, description="SDE steps per sample; null: all steps but the last")
    window_range: tuple[Annotated[int, Field(ge=0)], PositiveInt] | None = Field(
        None, description="the window lies in [first, last); null: [0, steps - 1)"
    )
    window_scope: Literal["iteration", "group"] = Field("iteration", description="who shares a window's position")
    kl_beta: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the KL to the reference")


class FlowGRPO:
    """The algorithm hooks of FlowGRPO."""

    Config = FlowGRPOConfig

    def __init__(self, config: FlowGRPOConfig) -> None:
        self.config = config
        self.uses_reference = config.kl_beta > 0

    @hookimpl
    def sde_window(self, iteration: int, group: int, steps: int, seed: int) -> Window:
        """A window of ``window_size`` steps, uniformly placed in ``window_range``."""
        first, last = self.config.window_range or (0, max(steps - 1, 1))
        size = self.config.window_size or last - first
        if last > steps or not 0 < size <= last - first:
            raise ConfigError(
                f"algorithm.window_size {size} does not fit window_range [{first}, {last}) of {steps} steps",
                "lower algorithm.window_size or raise rollout.steps",
            )
        scope = group if self.config.window_scope == "group" else "all"
        start = random.Random(seed_of(seed, "window", iteration, scope)).randint(first, last - size)
        return Window(start, start + size)

    @hookimpl
    def compute_advantages(self, rewards: torch.Tensor, uid: torch.Tensor) -> torch.Tensor:
        """Group-relative, clipped; (N,) fp32."""
        limit = self.config.advantage_clip
        return group_advantages(rewards, uid, self.config.std).clamp(-limit, limit)

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, step: int) -> LossOutput:
        """Clipped surrogate, plus the KL when ``kl_beta`` asks for it."""
        now = policy.evaluate(batch, step)
        advantages = batch["advantages"].to(now.log_prob.device)  # (B,)
        change = now.log_prob - batch["log_probs"][:, step].to(now.log_prob.device)  # (B,)
        ratio, clip = change.exp(), self.config.clip_range
        loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
        metrics = {
            "ratio_mean": ratio,
            "logp_absdiff_max": change.abs(),
            "ppo_kl": -change,
            "pg_clipfrac": ((ratio - 1).abs() > clip).float(),
        }
        if self.config.kl_beta > 0:
            kl = self._kl(policy, batch, step, now)
            loss, metrics["kl"] = loss + self.config.kl_beta * kl, kl
        return LossOutput(loss, {name: value.detach() for name, value in metrics.items()})

    @staticmethod
    def _kl(policy: Policy, batch: TensorDict, step: int, now: Evaluation) -> torch.Tensor:
        """(B,) KL(pi || pi_ref) per latent element; gradient flows through ``now`` only."""
        with policy.weights("reference"):
            reference = policy.evaluate(batch, step)
        masks = {name: mask.to(now.log_prob.device) for name, mask in masks_of(batch).items()}
        return joint_kl(now.transitions, reference.transitions, masks)
