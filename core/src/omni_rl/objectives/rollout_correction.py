"""Importance weights for samples from an engine whose model implementation differs from the trainer's.

The ratio of a policy gradient needs pi_old, the trainer's policy before the updates of the iteration. The engine stores
its own pi_rollout, which differs by rounding or more (other kernels, lower precision). There are two options:

* ``old_log_probs: rollout`` uses the stored log-probs as pi_old (the *bypass*). This needs no extra forward pass, but
  the ratio contains the difference.
* ``old_log_probs: recomputed`` evaluates every stored step again before the first update. ``correction`` can then
  multiply the loss of each step by w = pi_old / pi_rollout, capped, or leave the step out.

Truncated importance sampling: IMPALA, arXiv 1802.01561. Rejection of weights that are too large or too small: IcePop.
The weights are constants: no gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from tensordict import TensorDict
from torch.nn.functional import pad

from omni_rl.contracts import batches
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.types import Tensors
from omni_rl.parallel.agreement import largest

OldLogProbs = Literal["rollout", "recomputed"]


class Correction(BaseModel):
    """Correction for the difference between pi_old and pi_rollout."""

    model_config = ConfigDict(extra="forbid")

    level: Literal["step", "trajectory"] = Field(
        "step", description="one weight per stored step, or the product of its weights for a whole trajectory"
    )
    cap: PositiveFloat | None = Field(2.0, description="weights are limited to this maximum; null: use no weights")
    normalise: bool = Field(False, description="divide the weights by their mean")
    keep: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="[low, high]: the loss leaves out steps (trajectories) whose weight is outside this range"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Correction:
        if self.keep is not None and not self.keep[0] < 1 < self.keep[1]:
            raise ValueError(f"keep {list(self.keep)} must contain 1, the weight of equal log-probs")
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
    """The batch with ``old_log_probs`` (N, T), ``importance`` (N, T) and ``loss_weights`` (N, T), as the options say.

    With ``means`` it also has ``old_means/<stream>`` (N, T, ...) fp32: the means of the transitions, recomputed with
    the log-probs, so that both belong to the same old policy.

    It also has ``metrics/rollout_corr/*`` (N,): ``kl`` and ``k3_kl`` are the first and third estimator of
    KL(pi_rollout || pi_old); ``ess`` is the effective sample size as a fraction, (sum w)^2 / (N sum w^2).
    """
    if old_log_probs == "rollout":
        return batch
    batch = _with_old(policy, batch, means)
    difference = (batch["old_log_probs"] - batch["log_probs"]).double()  # (N, T)
    weights = (difference.sum(1, keepdim=True) if _whole(correction) else difference).exp().expand_as(difference)
    kept = torch.ones_like(weights)
    if correction is not None:
        if correction.keep is not None:
            low, high = correction.keep
            kept = ((weights >= low) & (weights <= high)).double()
            counted = batch["loss_weights"] if "loss_weights" in batch.keys() else 1.0
            batch["loss_weights"] = kept.float() * counted
        if correction.cap is not None:
            batch["importance"] = _importance(weights, kept, correction, total).float()
    batch["metrics"] = TensorDict(_figures(difference, weights, kept, total), batch.batch_size)
    return batch


def _whole(correction: Correction | None) -> bool:
    return correction is not None and correction.level == "trajectory"


def _importance(weights: torch.Tensor, kept: torch.Tensor, correction: Correction, total: Total) -> torch.Tensor:
    """(N, T) capped weights, divided by their mean over kept steps if asked for; 0 for steps that are left out.

    The weights of steps that are left out may be infinite.
    """
    capped = torch.where(kept > 0, weights.clamp(max=correction.cap), 0)
    if not correction.normalise:
        return capped
    summed, count = total(torch.stack([capped.sum(), kept.sum()]))
    return capped / (summed / count) if count > 0 else capped


def _with_old(policy: Policy, rows: TensorDict, means: bool) -> TensorDict:
    """The batch with ``old_log_probs`` and, if asked for, ``old_means``.

    All ranks replay together, however many forms a rank has rows of: ``map_steps`` is called once.
    """
    rows = rows.clone(recurse=False)
    shapes = [{n: v["final"].shape[1:] for n, v in alike["latents"].items()} for _, alike in batches.forms(rows)]
    widths = {name: max(each[name].numel() for each in shapes) for name in shapes[0]}
    replayed = policy.map_steps(rows, partial(_replayed, policy, widths if means else {}))
    rows["old_log_probs"] = replayed.pop("log_probs")
    if not means:
        return rows
    if len(shapes) == 1:
        unflat = {n: v.unflatten(2, shapes[0][n]) for n, v in replayed.items()}
        rows["old_means"] = TensorDict(unflat, rows.batch_size)
        return rows
    return batches.stacked([_with_means(row, {n: v[i] for n, v in replayed.items()}) for i, row in enumerate(rows)])


def _with_means(row: TensorDict, means: Tensors) -> TensorDict:
    """A row with its means (T, width), of which its own latents fill the first elements."""
    shapes = {n: stored["final"].shape for n, stored in row["latents"].items()}
    row["old_means"] = TensorDict({n: v[:, : shapes[n].numel()].unflatten(1, shapes[n]) for n, v in means.items()}, [])
    return row


def _replayed(policy: Policy, widths: Mapping[str, int], part: TensorDict, steps: Sequence[int]) -> Tensors:
    """``log_probs`` (B, S), and means (B, S, width) of the streams in ``widths``, with the current weights."""
    now = policy.evaluate(part, steps)
    flat = {n: torch.stack([each.transitions[n].mean.flatten(1) for each in now], dim=1) for n in widths}
    means = {n: pad(v, (0, widths[n] - v.shape[2])) for n, v in flat.items()}
    return {"log_probs": torch.stack([each.log_prob for each in now], dim=1)} | means


def _figures(
    difference: torch.Tensor, weights: torch.Tensor, kept: torch.Tensor, total: Total
) -> dict[str, torch.Tensor]:
    """Metrics of the whole batch, repeated for every row, so that a mean over samples does not change them."""
    summed = [-difference, difference.expm1() - difference, weights, weights**2, kept, torch.ones_like(kept)]
    kl, k3, weight, square, counted, count = total(torch.stack([values.sum() for values in summed]))
    none = weights.new_full((2, 1), -torch.inf)  # this rank may have no row
    least, most = largest(torch.cat([torch.stack([-weights, weights]).flatten(1), none], dim=1).amax(1))
    figures = {
        "kl": kl / count,
        "k3_kl": k3 / count,
        "weight_mean": weight / count,
        "weight_min": -least,
        "weight_max": most,
        "ess": weight**2 / (count * square),
        "masked_fraction": 1 - counted / count,
    }
    return {f"rollout_corr/{name}": value.float().expand(len(weights)) for name, value in figures.items()}
