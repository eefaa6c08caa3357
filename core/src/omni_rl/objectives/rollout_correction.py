"""Weights for samples that were drawn by another implementation of the model than the one that trains.

The ratio of a policy gradient needs pi_old, the trainer's policy before the iteration's updates. The engine stores its
own pi_rollout, which differs by rounding or more (other kernels, lower precision). Two ways to go about it:

* ``old_log_probs: rollout`` takes the stored ones for pi_old (the *bypass*): no extra forward; the ratio itself
  contains the difference.
* ``old_log_probs: recomputed`` evaluates every stored step once more before the first update, and ``correction`` can
  weigh each by w = pi_old / pi_rollout, capped, or leave it out altogether.

Importance sampling with truncation: IMPALA, arXiv 1802.01561; rejection in both directions: IcePop. Weights are
constants: no gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from tensordict import TensorDict

from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.types import Tensors

OldLogProbs = Literal["rollout", "recomputed"]


class Correction(BaseModel):
    """What is done about the difference between pi_old and pi_rollout."""

    model_config = ConfigDict(extra="forbid")

    level: Literal["step", "trajectory"] = Field(
        "step", description="one weight per stored step, or their product over a trajectory"
    )
    cap: PositiveFloat | None = Field(2.0, description="weights above it count as it; null: no weights")
    normalise: bool = Field(False, description="divide the weights by their mean")
    keep: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="[low, high]: steps (trajectories) whose weight lies outside are left out of the mean"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Correction:
        if self.keep is not None and not self.keep[0] < 1 < self.keep[1]:
            raise ValueError(f"keep {list(self.keep)} must enclose 1, the weight of what does not differ")
        return self


Total = Callable[[torch.Tensor], torch.Tensor]
"""Adds a tensor up over all ranks; see the hook ``prepare_actor_batch``."""


def corrected(
    policy: Policy,
    batch: TensorDict,
    old_log_probs: OldLogProbs,
    correction: Correction | None,
    total: Total,
    means: bool = False,
) -> TensorDict:
    """The batch with ``old_log_probs`` (N, T), ``importance`` (N, T) and ``loss_weights`` (N, T) as asked for.

    With ``means`` the recomputed means of the transitions stand beside the recomputed log-probs, as
    ``old_means/<stream>`` (N, T, ...) fp32: what is "old" is then the same policy in both.

    Beside them ``metrics/rollout_corr/*`` (N,): ``kl`` and ``k3_kl`` estimate KL(pi_rollout || pi_old) by its first and
    third estimator; ``ess`` is the effective share of the samples, (sum w)^2 / (N sum w^2).
    """
    if old_log_probs == "rollout":
        return batch
    batch = batch.clone(recurse=False)
    replayed = policy.map_steps(batch, partial(_replayed, policy, means))
    batch["old_log_probs"] = replayed.pop("log_probs")
    if means:
        batch["old_means"] = TensorDict(replayed, batch.batch_size)
    difference = (batch["old_log_probs"] - batch["log_probs"]).double()  # (N, T)
    weights = (difference.sum(1, keepdim=True) if _whole(correction) else difference).exp().expand_as(difference)
    kept = torch.ones_like(weights)
    if correction is not None:
        if correction.keep is not None:
            low, high = correction.keep
            kept = ((weights >= low) & (weights <= high)).double()
            batch["loss_weights"] = kept.float()
        if correction.cap is not None:
            batch["importance"] = _importance(weights, kept, correction, total).float()
    batch["metrics"] = TensorDict(_figures(difference, weights, kept), batch.batch_size)
    return batch


def _whole(correction: Correction | None) -> bool:
    return correction is not None and correction.level == "trajectory"


def _importance(weights: torch.Tensor, kept: torch.Tensor, correction: Correction, total: Total) -> torch.Tensor:
    """(N, T) capped, and divided by their mean over what is kept; 0 for the rest, whose weights need not be finite."""
    capped = torch.where(kept > 0, weights.clamp(max=correction.cap), 0)
    if not correction.normalise:
        return capped
    summed, count = total(torch.stack([capped.sum(), kept.sum()]))
    return capped / (summed / count) if count > 0 else capped


def _replayed(policy: Policy, means: bool, part: TensorDict, steps: Sequence[int]) -> Tensors:
    """``log_probs`` (B, S), and with ``means`` each stream's means (B, S, ...), under the current weights."""
    now = policy.evaluate(part, steps)
    log_probs = {"log_probs": torch.stack([each.log_prob for each in now], dim=1)}
    if not means:
        return log_probs
    return log_probs | {n: torch.stack([each.transitions[n].mean for each in now], dim=1) for n in now[0].transitions}


def _figures(difference: torch.Tensor, weights: torch.Tensor, kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each the same for all rows: a mean over samples leaves it as it is."""
    figures = {
        "kl": -difference.mean(),
        "k3_kl": (difference.expm1() - difference).mean(),
        "weight_mean": weights.mean(),
        "weight_min": weights.min(),
        "weight_max": weights.max(),
        "ess": weights.sum() ** 2 / (weights.numel() * (weights**2).sum()),
        "masked_fraction": 1 - kept.mean(),
    }
    return {f"rollout_corr/{name}": value.float().expand(len(weights)) for name, value in figures.items()}
