"""REINFORCE with a group baseline, as a user writes it in a file beside the configuration."""

import torch

from omni_rl import hookimpl
from omni_rl.contracts import LossOutput, Window
from omni_rl.objectives import group_advantages


class Reinforce:
    """The algorithm hooks; core answers every other one."""

    @hookimpl
    def sde_window(self, iteration, steps):
        """One stored step, another one in each iteration."""
        start = iteration % (steps - 1)
        return Window(start, start + 1)

    @hookimpl
    def compute_advantages(self, rewards, uid):
        """(N,) reward minus the mean of its group, from (N,)."""
        return group_advantages(rewards, uid, std="none")

    @hookimpl
    def compute_loss(self, policy, batch, steps):
        """(B, S) loss of S stored steps."""
        log_prob = torch.stack([now.log_prob for now in policy.evaluate(batch, steps)], dim=1)
        return LossOutput(-batch["advantages"].to(log_prob.device)[:, None] * log_prob, {"log_prob": log_prob.detach()})


OMNI_RL = {"algorithms": {"reinforce": Reinforce}}
