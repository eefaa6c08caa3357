"""DanceGRPO (arXiv 2505.07818): GRPO on all SDE steps of samples that start from one x_T.

It differs from FlowGRPO in these default values, which the configuration may change:

* the transition is ``dance_sde``, with the same eta in every step (``rollout.sde``);
* the samples of a prompt share their initial noise (``rollout.share_initial_noise``); only later noise differs;
* advantages are divided by the standard deviation of their group;
* every sample is trained on a random part of its steps (``timestep_fraction``), drawn again in every iteration.

Assumptions: those of the policy gradient (:mod:`omni_rl.objectives.policy_gradient`). A step that is left out needs no
forward pass. All steps are left out equally often, so the expected direction of the gradient is the same.
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
    """Options in the section ``algorithm`` with ``name: dance_grpo``."""

    std: StdScope = Field("group", description="divide by the standard deviation of the group, of all, or by none")
    timestep_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.6, description="fraction of a sample's stored steps that are used for training"
    )


class DanceGRPO(RandomlyPlaced, PolicyGradient):
    """The algorithm hooks of DanceGRPO."""

    Config = DanceGRPOConfig
    config: DanceGRPOConfig

    @staticmethod
    @hookimpl
    def defaults() -> Mapping[str, Any]:
        """``dance_sde`` with one eta for all steps, and one x_T for a group."""
        return {"rollout": {"sde": {"type": "dance_sde", "noise_level": 0.3}, "share_initial_noise": True}}

    @hookimpl
    def prepare_actor_batch(
        self, policy: Policy, batch: TensorDict, iteration: int, seed: int, total: Total
    ) -> TensorDict:
        """Add ``order`` (N, steps) int64: the stored steps that each row is trained on."""
        batch = super().prepare_actor_batch(policy, batch, iteration, seed, total)
        stored = batch["timesteps"].shape[1]
        count = max(1, round(self.config.timestep_fraction * stored))
        if count < stored:
            keys = [seed_of(seed, "order", iteration, int(i)) for i in batch["sample_id"]]
            drawn = [torch.randperm(stored, generator=torch.Generator().manual_seed(key))[:count] for key in keys]
            batch = batch.clone(recurse=False)
            batch["order"] = torch.cat(drawn or [torch.empty(0, dtype=torch.int64)]).view(-1, count).sort(dim=1).values
        return batch
