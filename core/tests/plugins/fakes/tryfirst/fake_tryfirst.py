"""Wants to jump the layers."""

from omni_rl import hookimpl


class Algorithm:
    @hookimpl(tryfirst=True)
    def compute_loss(self, policy, batch, steps):
        return None
