"""The divergence of the policy's transition from the reference's: omni-rl's own, and those of other frameworks.

mu and s are the mean and true standard deviation of x' given x, v is the velocity; means are over latent elements:

===============  =================================  ==============================================================
name             D                                  used by
===============  =================================  ==============================================================
transition       mean (mu - mu_ref)^2 / (2 s^2)     omni-rl; Pref-GRPO, Flash-GRPO, GenRL: the KL of the two Gaussians
std_dev_t        ... / (2 std_dev_t^2)              Flow-GRPO, verl-omni: for ``sde`` it lacks the factor 1 / h
mean_mse         mean (mu - mu_ref)^2               Flow-Factory (x-based); GenRL for ``cps``
velocity_mse     mean (v - v_ref)^2                 Flow-Factory (v-based)
old_log_ratio    (log pi - log pi_old)^2 / 2        MixGRPO: from the policy that sampled, not from a reference
===============  =================================  ==============================================================

A value of ``kl_beta`` has a different effect under each name. Only ``transition`` has the same meaning for every SDE
type and number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.types import Evaluation
from omni_rl.schedulers.transition import Transition, joint_kl, joint_mean

Divergence = Literal["transition", "std_dev_t", "mean_mse", "velocity_mse", "old_log_ratio"]

Weight = Callable[[Transition], torch.Tensor]

_WEIGHTS: dict[str, Weight] = {
    "std_dev_t": lambda t: 0.5 / t.std_dev_t.masked_fill(t.std_dev_t == 0, torch.inf) ** 2,
    "mean_mse": lambda t: torch.ones_like(t.std),
    "velocity_mse": lambda t: 1 / t.slope**2,
}
"""The factor of (mu - mu_ref)^2, (B, 1, ..., 1)."""


def divergence(
    kind: Divergence, policy: Policy, batch: TensorDict, step: int, now: Evaluation, log_ratio: torch.Tensor
) -> torch.Tensor:
    """(B,) divergence; the gradient flows only through ``now`` and ``log_ratio`` (B,)."""
    if kind == "old_log_ratio":
        return 0.5 * log_ratio**2
    with policy.weights("reference"):
        (reference,) = policy.evaluate(batch, [step])
    masks = trajectory.masks_of(batch)
    if kind == "transition":
        return joint_kl(now.transitions, reference.transitions, masks)
    weight = _WEIGHTS[kind]
    means = {n: (t, reference.transitions[n].mean) for n, t in now.transitions.items()}
    return joint_mean({n: weight(t) * (t.mean - mean) ** 2 for n, (t, mean) in means.items()}, masks)
