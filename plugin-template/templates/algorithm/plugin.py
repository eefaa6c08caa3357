"""The algorithm ``{{ cookiecutter.key }}``: the policy gradient with a group baseline.

Williams, "Simple statistical gradient-following algorithms" (1992), on the Gaussian transitions of SDE denoising steps:

    A = r - mean_group(r),        L = -A log p_theta(x' | x)

Assumption: every update is on-policy, because nothing corrects for weights that have moved since the rollout. Keep
``train.inner_epochs`` at 1 and leave ``train.mini_batch_prompts`` empty.
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
    """The algorithm's hooks; what is not here keeps core's default."""

    class Config(BaseModel):
        """Options beside ``name: {{ cookiecutter.key }}`` in the section ``algorithm``."""

        model_config = ConfigDict(extra="forbid")

        advantage_clip: PositiveFloat = Field(default=5.0, description="advantages are clipped to [-a, a]")

    def __init__(self, config: Config) -> None:
        self.config = config

    @hookimpl
    def compute_advantages(self, rewards: torch.Tensor, uid: torch.Tensor) -> torch.Tensor:
        """(N,) fp32: how much better than the mean of its group."""
        limit = self.config.advantage_clip
        return group_advantages(rewards, uid, std="none").clamp(-limit, limit)

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput:
        """(B, S) losses of S stored steps; core averages over samples and steps."""
        log_prob = torch.stack([now.log_prob for now in policy.evaluate(batch, steps)], dim=1)  # (B, S)
        advantages = batch["advantages"].to(log_prob.device)[:, None]  # (B, 1)
        return LossOutput(-advantages * log_prob, {"log_prob": log_prob.detach()})
