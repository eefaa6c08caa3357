"""Diffusion-DPO (arXiv 2311.12908) on flow matching: prefer one of two images, relative to a reference.

Both images of a pair (x_w preferred, x_l rejected) are noised at the same level s with the same noise n. With the
flow-matching errors e of the policy and e_ref of the reference,

    m = -b / 2 (e - e_ref),        z = m_w - m_l - p max(0, -m_w),        L = -log sigmoid(z)

e is a mean over latent elements, so b is large (2000). With p = 0, the policy can reduce the loss by making both images
less likely, the rejected one faster. p > 0 (DPO-Positive, arXiv 2402.13228) keeps the preferred image at least as
likely as under the reference. The reference is the initial model, or follows the policy after every iteration (TR-DPO,
arXiv 2404.09656), ref <- d ref + (1 - d) policy.

``diffusion_dpo`` forms pairs from the samples of every iteration: the best and the worst sample of each group, the
second best and the second worst, and so on; two samples with the same reward form no pair. ``diffusion_dpo_offline``
learns from ``data:`` with the columns prompt, chosen and rejected (:mod:`omni_rl_diffusion_dpo.stored_pairs`), and
samples only in validation.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch.nn.functional import logsigmoid, relu

from omni_rl import hookimpl
from omni_rl.contracts import batches
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.traits import AlgorithmTraits, Copy
from omni_rl.contracts.types import LossOutput
from omni_rl.objectives.advantages import group_advantages
from omni_rl.objectives.forward_process import ForwardProcess, noised_at
from omni_rl_diffusion_dpo.options import DiffusionDPOConfig, OfflineDiffusionDPOConfig
from omni_rl_diffusion_dpo.pairs import paired
from omni_rl_diffusion_dpo.stored_pairs import OfflinePairs


class PairLoss(ForwardProcess):
    """Base class of both algorithms: the loss of a pair, and a reference that may move towards the policy."""

    config: OfflineDiffusionDPOConfig

    def __init__(self, config: OfflineDiffusionDPOConfig) -> None:
        self.config = config
        self._reference: Copy = "old" if config.reference_decay < 1 else "reference"

    @hookimpl
    def compute_advantages(self, rewards: torch.Tensor, uid: torch.Tensor) -> torch.Tensor:
        """(N,) fp32, reward minus the group's mean; only the order within a group is used."""
        return group_advantages(rewards, uid, std="none")

    @hookimpl
    def prepare_actor_batch(self, batch: TensorDict, iteration: int, seed: int) -> TensorDict:
        """Add noise levels and noise to each row; both images of a pair (``latents``, ``rejected``) share them."""
        return self.config.noised(self._pairs(batch), iteration, seed)

    def loss_at(self, policy: Policy, batch: TensorDict, step: int) -> LossOutput:
        """(B,) loss of B pairs at one noise level each."""
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

    @hookimpl
    def after_update(self, policy: Policy, iteration: int, last: bool) -> None:
        """Move the reference towards the policy, once per iteration."""
        if last and self._reference == "old":
            for name, value in policy.named["old"].items():
                value.lerp_(policy.parameters[name].detach(), 1 - self.config.reference_decay)

    def _pairs(self, batch: TensorDict) -> TensorDict:
        return batch

    def _margin(self, policy: Policy, batch: TensorDict, step: int, side: str) -> torch.Tensor:
        """(B,) implicit reward of one image of each pair: b / 2 (error of the reference - error of the policy)."""
        at = noised_at(batch, step, policy.device, side)
        error = at.error(policy.velocity(batch, at.x, at.t))
        with policy.weights(self._reference):
            reference = at.error(policy.velocity(batch, at.x, at.t))
        return -self.config.beta / 2 * (error - reference)


class OfflineDiffusionDPO(OfflinePairs, PairLoss):
    """The algorithm hooks of Diffusion-DPO on pairs of a dataset."""

    Config = OfflineDiffusionDPOConfig

    @hookimpl
    def traits(self, config: OfflineDiffusionDPOConfig) -> AlgorithmTraits:
        """It learns from the pairs of a file."""
        return AlgorithmTraits(offline=True, needs_groups=False, keeps=frozenset({self._reference}), sde=())


class DiffusionDPO(PairLoss):
    """The algorithm hooks of Diffusion-DPO on pairs of the policy's own samples."""

    config: DiffusionDPOConfig
    Config = DiffusionDPOConfig

    @hookimpl
    def traits(self, config: OfflineDiffusionDPOConfig) -> AlgorithmTraits:
        """It makes pairs of its own samples."""
        return AlgorithmTraits(keeps=frozenset({self._reference}), sde=())

    def _pairs(self, batch: TensorDict) -> TensorDict:
        return batches.change(batch, lambda rows: paired(rows, self.config.pairs_per_group))
