"""Diffusion-DPO (arXiv 2311.12908) on flow matching: prefer one of two pictures, relative to a reference.

A pair (x_w preferred, x_l) is noised at one level s with one noise n, and with the flow-matching errors e of the policy
and e_ref of the reference,

    m = -b / 2 (e - e_ref),        z = m_w - m_l - p max(0, -m_w),        L = -log sigmoid(z)

e is a mean over latent elements, so b is large (2000). Pairs alone are told apart by unlearning both pictures, the
rejected one faster; p > 0 (DPO-Positive, arXiv 2402.13228) holds the preferred one at least as likely as the reference
does. ``diffusion_dpo`` draws its pairs anew in every iteration: the
best and the worst sample of each group; a group whose best and worst are worth the same makes no pair.
``diffusion_dpo_offline`` learns from ``data:`` with the columns prompt, chosen and rejected
(:mod:`omni_rl.preferences`), and samples for validation only.

Assumption: the reference is the model that training starts from.
"""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from tensordict import TensorDict
from torch.nn.functional import logsigmoid, relu

from omni_rl import hookimpl
from omni_rl.advantages import group_advantages
from omni_rl.forward_process import ForwardOptions, ForwardProcess, Levels, noised_at
from omni_rl.types import LossOutput, Policy


class DiffusionDPOConfig(ForwardOptions):
    """Options beside ``algorithm.name: diffusion_dpo``."""

    beta: PositiveFloat = Field(2000.0, description="b: how sharply errors are told apart")
    positive: NonNegativeFloat = Field(
        0.0, description="p: weight of the preferred picture's loss of likelihood; 0 is plain DPO"
    )
    levels: Levels = Field("logit_normal", description="noise levels: the rollout's, or uniform or logit-normal draws")


class DiffusionDPO(ForwardProcess):
    """The algorithm hooks of Diffusion-DPO."""

    Config = DiffusionDPOConfig
    uses_reference = True

    def __init__(self, config: DiffusionDPOConfig) -> None:
        self.config = config

    @hookimpl
    def compute_advantages(self, rewards: torch.Tensor, uid: torch.Tensor) -> torch.Tensor:
        """How much better than the group's mean, (N,) fp32; what counts is the order."""
        return group_advantages(rewards, uid, std="none")

    @hookimpl
    def prepare_actor_batch(self, batch: TensorDict, iteration: int, seed: int) -> TensorDict:
        """Rows become pairs, ``latents`` preferred over ``rejected``, with one noise plan each."""
        return self.config.noised(batch if "rejected" in batch.keys() else paired(batch), iteration, seed)

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, step: int) -> LossOutput:
        """(B,) of B pairs at one noise level each."""
        better, worse = (self._margin(policy, batch, step, side) for side in ("latents", "rejected"))  # (B,)
        z = better - worse - self.config.positive * relu(-better)
        loss = -logsigmoid(z)
        metrics = {
            "implicit_acc": (better > worse).to(z),
            "rewards/chosen": better,
            "rewards/rejected": worse,
            "rewards/margins": better - worse,
        }
        return LossOutput(loss, {n: value.detach() for n, value in metrics.items()})

    def _margin(self, policy: Policy, batch: TensorDict, step: int, side: str) -> torch.Tensor:
        """(B,) implicit reward of one side: by how much less the policy errs than the reference, times b / 2."""
        at = noised_at(batch, step, policy.device, side)
        error = at.error(policy.velocity(batch, at.x, at.t))
        with policy.weights("reference"):
            reference = at.error(policy.velocity(batch, at.x, at.t))
        return -self.config.beta / 2 * (error - reference)


class OfflineDiffusionDPO(DiffusionDPO):
    """Its hooks for pairs of a dataset."""

    offline = True
    needs_groups = False


def paired(batch: TensorDict) -> TensorDict:
    """Best and worst of every group as one row (P,), in the order of the groups; ties make none."""
    best, worst = [], []
    for group in batch["uid"].unique_consecutive():
        rows = (batch["uid"] == group).nonzero().flatten()
        values = batch["rewards"][rows]
        if values.max() > values.min():
            best.append(int(rows[values.argmax()]))
            worst.append(int(rows[values.argmin()]))
    found = batch[torch.tensor(best, dtype=torch.int64)]
    found["rejected"] = batch["latents"][torch.tensor(worst, dtype=torch.int64)]
    return found
