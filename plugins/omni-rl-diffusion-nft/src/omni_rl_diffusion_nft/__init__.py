"""DiffusionNFT (arXiv 2509.16117): online RL on the forward process, without log-probs and without SDE steps.

A finished sample x0 with advantage A is noised to x_s = (1 - s) x0 + s n. The velocity v gives two velocities that are
symmetric around that of the old policy, v+ = b v + (1 - b) v_old and v- = (1 + b) v_old - b v. With the x0 that each of
them predicts,

    l+- = mean((x_s - s v+- - x0)^2) / w+-,        w+- = mean|x_s - s v+- - x0|, a constant
    L = M / b * (rho l+ + (1 - rho) l-) + k mean((v - v_ref)^2),        rho = clip(A, -M, M) / (2 M) + 1 / 2

So v moves towards good samples and away from bad ones. Samples are drawn with the old policy and ODE steps. After every
iteration, with k completed iterations, the old policy becomes old <- d old + (1 - d) v with a decay d(k):

    copy                        0: the old policy is that of the last iteration
    linear_to_0_5               min(0.001 k, 0.5)
    delayed_linear_to_0_999     0 up to k = 75, then min(0.0075 (k - 75), 0.999)

Assumptions: advantages are relative to the group; b is small enough that the model is accurate at v+ and v-.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.traits import AlgorithmTraits, Copy
from omni_rl.contracts.types import LossOutput, Streams
from omni_rl.objectives.advantages import GroupRelative
from omni_rl.objectives.forward_process import ForwardProcess, Noised, along, noised_at
from omni_rl_diffusion_nft.options import DiffusionNFTConfig, decay_after

LEAST_WEIGHT = 1e-5


class DiffusionNFT(GroupRelative, ForwardProcess):
    """The algorithm hooks of DiffusionNFT."""

    config: DiffusionNFTConfig
    Config = DiffusionNFTConfig

    def __init__(self, config: DiffusionNFTConfig) -> None:
        self.config = config

    @hookimpl
    def traits(self, config: DiffusionNFTConfig) -> AlgorithmTraits:
        """Samples come from the old policy; the reference is kept where it counts."""
        keeps: frozenset[Copy] = frozenset({"old", "reference"} if config.reference_weight > 0 else {"old"})
        return AlgorithmTraits(keeps=keeps, samples_with="old", sde=())

    @hookimpl
    def prepare_actor_batch(self, batch: TensorDict, iteration: int, seed: int) -> TensorDict:
        """Add noise levels and noise to every sample."""
        return self.config.noised(batch, iteration, seed)

    def loss_at(self, policy: Policy, batch: TensorDict, step: int) -> LossOutput:
        """(B,) loss at one noise level of each row."""
        at, b, limit = noised_at(batch, step, policy.device), self.config.beta, self.config.advantage_clip
        v = policy.velocity(batch, at.x, at.t)
        with policy.weights("old"):
            old = policy.velocity(batch, at.x, at.t)
        rho = self._share(batch["advantages"].to(policy.device))  # (B,)
        attracted = _distance(at, {n: b * v[n] + (1 - b) * old[n] for n in v})
        repelled = _distance(at, {n: (1 + b) * old[n] - b * v[n] for n in v})
        loss = limit / b * (rho * attracted + (1 - rho) * repelled)
        metrics = {"positive_loss": attracted, "negative_loss": repelled, "reward_prob_mean": rho}
        metrics["old_deviate"] = at.mean({n: (v[n] - old[n]) ** 2 for n in v})
        if self.config.reference_weight > 0:
            with policy.weights("reference"):
                reference = policy.velocity(batch, at.x, at.t)
            metrics["ref_kl_loss"] = at.mean({n: (v[n] - reference[n]) ** 2 for n in v})
            loss = loss + self.config.reference_weight * metrics["ref_kl_loss"]
        return LossOutput(loss, {n: value.detach() for n, value in metrics.items()})

    @hookimpl
    def after_update(self, policy: Policy, iteration: int, last: bool) -> None:
        """Move the old policy towards the policy, once per iteration."""
        if last:
            decay = decay_after(iteration + 1, self.config.decay)
            for name, value in policy.named["old"].items():
                value.lerp_(policy.parameters[name].detach(), 1 - decay)

    def _share(self, advantages: torch.Tensor) -> torch.Tensor:
        limit, mode = self.config.advantage_clip, self.config.mode
        sign = {"positive_only": (0.0, limit), "negative_only": (-limit, 0.0)}
        counted = {"binary": advantages.sign(), "one_only": (advantages > 0).to(advantages)}.get(mode, advantages)
        return counted.clamp(*sign.get(mode, (-limit, limit))) / (2 * limit) + 0.5


def _distance(at: Noised, velocity: Streams) -> torch.Tensor:
    """(B,) squared distance of the x0 that a velocity predicts from the sample, divided by the mean distance."""
    off = {n: at.x[n] - along(at.level, v) * v - at.x0[n] for n, v in velocity.items()}
    weight = at.mean({n: o.detach().abs().double() for n, o in off.items()}).clamp(min=LEAST_WEIGHT)
    return at.mean({n: o**2 for n, o in off.items()}) / weight.to(next(iter(off.values())))
