"""DanceGRPO (arXiv 2505.07818): GRPO on all SDE steps of samples that start from one x_T.

What differs from FlowGRPO, all of it defaults here that the configuration may change:

* the transition is ``dance_sde``, with the same eta in every step (``rollout.sde``);
* the samples of a prompt share their initial noise (``rollout.share_initial_noise``) and differ by what came after;
* advantages are divided by the standard deviation of their group;
* every sample is trained on a random part of its steps, ``timestep_fraction``, drawn anew for sample and iteration.

Assumptions: those of the policy gradient (:mod:`omni_rl.objectives.policy_gradient`). A step left out costs no forward,
and as each is left out as often as any other, the gradient keeps its direction in expectation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.objectives.advantages import StdScope
from omni_rl.objectives.policy_gradient import ClippedOptions, PolicyGradient
from omni_rl.objectives.rollout_correction import Total
from omni_rl.objectives.windows import RandomlyPlaced, RandomWindow
from omni_rl.schedulers.randomness import seed_of


class DanceGRPOConfig(ClippedOptions, RandomWindow):
    """Options beside ``algorithm.name: dance_grpo``."""

    std: StdScope = Field("group", description="what advantages are divided by the standard deviation of")
    timestep_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.6, description="part of a sample's stored steps that it is trained on"
    )


class DanceGRPO(RandomlyPlaced, PolicyGradient):
    """The algorithm hooks of DanceGRPO."""

    Config = DanceGRPOConfig
    config: DanceGRPOConfig

    @staticmethod
    @hookimpl
    def defaults() -> Mapping[str, Any]:
        """One eta for all steps, one x_T for a group."""
        return {"rollout": {"sde": {"type": "dance_sde", "noise_level": 0.3}, "share_initial_noise": True}}

    @hookimpl
    def prepare_actor_batch(
        self, policy: Policy, batch: TensorDict, iteration: int, seed: int, total: Total
    ) -> TensorDict:
        """Which stored steps each row is trained on: ``order`` (N, steps) int64."""
        batch = super().prepare_actor_batch(policy, batch, iteration, seed, total)
        stored = batch["timesteps"].shape[1]
        count = max(1, round(self.config.timestep_fraction * stored))
        if count < stored:
            keys = [seed_of(seed, "order", iteration, int(i)) for i in batch["sample_id"]]
            drawn = [torch.randperm(stored, generator=torch.Generator().manual_seed(key)) for key in keys]
            batch = batch.clone(recurse=False)
            batch["order"] = torch.stack(drawn)[:, :count].sort(dim=1).values
        return batch
