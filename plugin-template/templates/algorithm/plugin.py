"""The algorithm ``{{ cookiecutter.key }}``: the policy gradient with a group baseline.

Williams, "Simple statistical gradient-following algorithms" (1992), on the Gaussian transitions of SDE denoising steps:

    A = r - mean_group(r),        L = -A log p_theta(x' | x)

Assumption: every update is on-policy, because the loss does not correct for weights that changed since the rollout.
Keep ``train.inner_epochs`` at 1 and do not set ``train.mini_batch_prompts``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from omni_rl import hookimpl
from omni_rl.contracts import LossOutput, Policy
from omni_rl.objectives import group_advantages
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from tensordict import TensorDict


class Reinforce:
    """The algorithm's hooks; for all others core's defaults are used."""

    class Config(BaseModel):
        """Options in the section ``algorithm`` with ``name: {{ cookiecutter.key }}``."""

        model_config = ConfigDict(extra="forbid")

        advantage_clip: PositiveFloat = Field(default=5.0, description="advantages are clipped to [-a, a]")

    def __init__(self, config: Config) -> None:
        self.config = config

    @hookimpl
    def compute_advantages(self, rewards: torch.Tensor, uid: torch.Tensor) -> torch.Tensor:
        """Advantages (N,) fp32: reward minus the mean of its group."""
        limit = self.config.advantage_clip
        return group_advantages(rewards, uid, std="none").clamp(-limit, limit)

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput:
        """Losses (B, S) of B samples at S steps; core averages over samples and steps."""
        log_prob = torch.stack([now.log_prob for now in policy.evaluate(batch, steps)], dim=1)  # (B, S)
        advantages = batch["advantages"].to(log_prob.device)[:, None]  # (B, 1)
        return LossOutput(-advantages * log_prob, {"log_prob": log_prob.detach()})
