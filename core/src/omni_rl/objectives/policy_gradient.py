"""The policy gradient on stored denoising steps, shared by algorithms of the GRPO family.

An algorithm derives from :class:`PolicyGradient` and overrides the SDE window (``sde_window``) or the surrogate
(:meth:`PolicyGradient.surrogate`). This module provides the rest: advantages, the divergence from the reference, old
log-probs, and the correction for an engine whose log-probs differ from the trainer's.

With A the advantage and r = pi(x'|x) / pi_old(x'|x) the ratio of one stored step,

    L = w * surrogate(A, r) + beta * D(pi, pi_ref),        surrogate = max(-A r, -A clip(r, 1 - c_low, 1 + c_high))

averaged over samples and steps. Log-probs are means over latent elements, so ratios are close to 1, and clip ranges are
small (1e-5 to 1e-3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat, model_validator
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.contracts.types import Evaluation, LossOutput, Streams, Tensors
from omni_rl.objectives.advantages import AdvantageOptions, GroupRelative
from omni_rl.objectives.divergence import Divergence, divergence
from omni_rl.objectives.rollout_correction import Correction, OldLogProbs, Total, corrected
from omni_rl.objectives.steps import joined
from omni_rl.schedulers.transition import joint_mean


class PolicyGradientOptions(AdvantageOptions):
    """Options of every policy-gradient algorithm."""

    kl_beta: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the divergence from the reference")
    kl: Divergence = Field("transition", description="formula of the divergence; see omni_rl.objectives.divergence")
    old_log_probs: OldLogProbs = Field(
        "rollout", description="log-probs in the ratio's denominator: the engine's, or recomputed by the trainer"
    )
    correction: Correction | None = Field(
        None, description="importance weights for the difference between the engine's and the trainer's log-probs"
    )

    @model_validator(mode="after")
    def _correctable(self) -> PolicyGradientOptions:
        if self.correction is not None and self.old_log_probs == "rollout":
            raise ValueError("correction needs old_log_probs: recomputed; set that, or remove correction")
        return self


class ClippedOptions(PolicyGradientOptions):
    """Options of policy-gradient algorithms with a clipped ratio."""

    clip_range: PositiveFloat | tuple[PositiveFloat, PositiveFloat] = Field(
        1e-4, description="c: ratios are clipped to [1 - c, 1 + c]; [low, high]: to [1 - low, 1 + high]"
    )

    @property
    def clip(self) -> tuple[float, float]:
        """(low, high)."""
        pair = self.clip_range
        return pair if isinstance(pair, tuple) else (pair, pair)


@dataclass(frozen=True)
class Step:
    """A stored step of B samples, evaluated with the current weights.

    Attributes:
        now: the policy's evaluation, with gradient.
        advantages: (B,).
        log_ratio: (B,) log pi - log pi_old, with gradient.
        batch, index: the batch, and the number of the stored step in it.
    """

    now: Evaluation
    advantages: torch.Tensor
    log_ratio: torch.Tensor
    batch: TensorDict
    index: int

    @cached_property
    def noise(self) -> Streams:
        """The noise of the rollout, (B, ...) per stream, drawn again from its seeds."""
        return trajectory.drawn_noise(self.batch, self.index)

    def shift(self) -> Streams:
        """mu - mu_old per stream, (B, ...), with gradient; exactly 0 if the weights are the old ones.

        If log-probs are recomputed, mu_old is recomputed with them and stored. The rollout's mu_old is not stored. But
        x' = mu_old + std * noise is, so mu + std * noise - x' is the same difference.
        """
        if "old_means" in self.batch.keys():
            old = {n: trajectory.at(self.batch, ("old_means", n), self.index) for n in self.now.transitions}
            return {n: t.mean - old[n].to(t.mean) for n, t in self.now.transitions.items()}
        following = trajectory.latents(self.batch, self.index, ahead=1)
        return {n: t.sample(self.noise[n]) - following[n].to(t.mean) for n, t in self.now.transitions.items()}

    def mean(self, values: Streams) -> torch.Tensor:
        """(B,) mean of (B, ...) per stream over the elements that count."""
        return joint_mean(values, trajectory.masks_of(self.batch))

    def kl_old(self) -> torch.Tensor:
        """(B,) KL(pi || pi_old) per latent element, with the transition's true variance."""
        squares = {n: d**2 / (2 * _safe(self.now.transitions[n].std) ** 2) for n, d in self.shift().items()}
        return self.mean(squares)


class PolicyGradient(GroupRelative):
    """Base class of policy-gradient algorithms: implements their common hooks."""

    Config: ClassVar[type[PolicyGradientOptions]]
    config: PolicyGradientOptions
    compares_means: ClassVar[bool] = False
    """Whether the surrogate reads :meth:`Step.shift`: old means are then kept beside recomputed log-probs."""

    def __init__(self, config: PolicyGradientOptions) -> None:
        self.config = config

    @hookimpl
    def traits(self, config: PolicyGradientOptions) -> AlgorithmTraits:
        """Keep the reference if the divergence needs it; report the clip range."""
        needs_reference = config.kl_beta > 0 and config.kl != "old_log_ratio"
        clip = config.clip if isinstance(config, ClippedOptions) else None
        return AlgorithmTraits(keeps=frozenset({"reference"} if needs_reference else ()), clip_range=clip)

    @hookimpl
    def prepare_actor_batch(
        self, policy: Policy, batch: TensorDict, iteration: int, seed: int, total: Total
    ) -> TensorDict:
        """Add the trainer's old log-probs and the correction, if the options ask for them."""
        return corrected(
            policy, batch, self.config.old_log_probs, self.config.correction, total, means=self.compares_means
        )

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput:
        """The surrogate plus the weighted divergence from the reference, of each step."""
        return joined([self.loss_at(policy, each) for each in self.stored(policy, batch, steps)])

    def loss_at(self, policy: Policy, step: Step) -> LossOutput:
        """(B,) loss of one stored step."""
        loss, metrics = self.surrogate(step)
        batch, index = step.batch, step.index
        metrics["rollout_logp_absdiff_max"] = _distance(step)
        if "importance" in batch.keys():
            loss = loss * trajectory.at(batch, "importance", index).to(loss)
        if self.config.kl_beta > 0:
            kl = divergence(self.config.kl, policy, batch, index, step.now, step.log_ratio)
            loss, metrics["kl"] = loss + self.config.kl_beta * kl, kl
        return LossOutput(loss, {name: value.detach() for name, value in metrics.items()})

    def stored(self, policy: Policy, batch: TensorDict, steps: Sequence[int]) -> list[Step]:
        """Evaluate stored steps with the current weights."""
        return [self._step(batch, step, now) for step, now in zip(steps, policy.evaluate(batch, steps), strict=True)]

    def _step(self, batch: TensorDict, step: int, now: Evaluation) -> Step:
        device = now.log_prob.device
        old = "old_log_probs" if "old_log_probs" in batch.keys() else "log_probs"
        log_ratio = now.log_prob - trajectory.at(batch, old, step).to(device)  # (B,)
        return Step(now, batch["advantages"].to(device), log_ratio, batch, step)

    def surrogate(self, step: Step) -> tuple[torch.Tensor, Tensors]:
        """(B,) loss without the divergence, and (B,) metrics; the default is PPO's clipped surrogate."""
        assert isinstance(self.config, ClippedOptions)
        return clipped(step.advantages, step.log_ratio, *self.config.clip)


def clipped(advantages: torch.Tensor, log_ratio: torch.Tensor, low: float, high: float) -> tuple[torch.Tensor, Tensors]:
    """max(-A r, -A clip(r, 1 - low, 1 + high)), (B,), and its metrics (PPO, arXiv 1707.06347)."""
    ratio = log_ratio.exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))
    above, below = (ratio > 1 + high).float(), (ratio < 1 - low).float()
    return loss, {
        "ratio_mean": ratio,
        "logp_absdiff_max": log_ratio.abs(),
        "ppo_kl": -log_ratio,
        "pg_clipfrac": above + below,
        "pg_clipfrac_higher": above,
        "pg_clipfrac_lower": below,
    }


def _distance(step: Step) -> torch.Tensor:
    """(B,) distance of the log-prob from the engine's own, whatever the old policy's is."""
    stored = trajectory.at(step.batch, "log_probs", step.index).to(step.now.log_prob)
    return (step.now.log_prob - stored).abs()


def _safe(std: torch.Tensor) -> torch.Tensor:
    """``std`` with 0 replaced by 1: a step without noise has no density, and its difference is 0 in any case."""
    return std.masked_fill(std == 0, 1.0)
