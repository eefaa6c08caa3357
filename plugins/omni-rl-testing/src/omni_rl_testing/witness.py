"""The algorithm with which the backend suite trains.

This file is also a local plugin, so a backend in another process can rebuild the algorithm from the ``RunSpec``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.types import LossOutput
from omni_rl_testing.toy import PolicyGradient


class Witness(PolicyGradient):
    """A policy gradient that keeps the reference and reports how many updates it has seen."""

    def __init__(self) -> None:
        super().__init__(uses_reference=True)

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput:
        """The metric ``updates_before`` is the number that the last ``after_update`` reported, 0 before the first."""
        output = super().compute_loss(policy, batch, steps)
        before = torch.full_like(output.loss.detach(), self.updates[-1] if self.updates else 0)
        return LossOutput(output.loss, {**output.metrics, "updates_before": before})


OMNI_RL = {"algorithms": {"under-test": Witness}}
