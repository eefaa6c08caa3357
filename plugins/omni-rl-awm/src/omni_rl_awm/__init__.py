"""AWM, advantage-weighted matching (arXiv 2509.25050): the policy gradient on the forward process.

A finished sample x0 is noised to x_s = (1 - s) x0 + s n. Its weighted flow-matching error takes the place of a
log-prob:

    l = -w(s) d(v, n - x0),        r = exp(l - l_old),        L = max(-A r, -A clip(r, 1 - c, 1 + c)) + regularisers

l_old has the same s and n, and is computed before the first update of the iteration. The error d is the mean square e
with w = 1 (``uniform``), s (``t``) or s^2 (``t2``), or (Huber) -s (sqrt(e) - 1e-5), or -s e^p / p (``ghuber``).

The regularisers are mean((v - v_other)^2) to the reference (``kl_beta``) and to the moving average of the weights
(``ema_beta``, which needs ``train.ema``). Every noise level has its own ratio.

Assumptions: samples may come from any sampler (the default is ODE steps); advantages are relative to the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from tensordict import TensorDict

from omni_rl import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.traits import AlgorithmTraits, Copy
from omni_rl.contracts.types import LossOutput, Streams, Tensors
from omni_rl.objectives.advantages import AdvantageOptions, GroupRelative
from omni_rl.objectives.forward_process import ForwardOptions, ForwardProcess, Noised, noised_at
from omni_rl.objectives.policy_gradient import clipped


class AWMConfig(AdvantageOptions, ForwardOptions):
    """Options in the section ``algorithm`` with ``name: awm``."""

    clip_range: PositiveFloat = Field(1e-2, description="c: ratios are clipped to [1 - c, 1 + c]")
    weighting: Literal["uniform", "t", "t2", "huber", "ghuber"] = Field("ghuber", description="weight of the error")
    power: PositiveFloat = Field(0.5, description="exponent p of ghuber")
    kl_beta: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the distance to the reference")
    ema_beta: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the distance to the moving average; needs train.ema"
    )


class AWM(GroupRelative, ForwardProcess):
    """The algorithm hooks of AWM."""

    config: AWMConfig
    Config = AWMConfig

    def __init__(self, config: AWMConfig) -> None:
        self.config = config

    @hookimpl
    def traits(self, config: AWMConfig) -> AlgorithmTraits:
        """The copies that it measures distances to, and the clip range."""
        keeps: set[Copy] = set()
        keeps |= {"reference"} if config.kl_beta > 0 else set()
        keeps |= {"ema"} if config.ema_beta > 0 else set()
        clip = (config.clip_range, config.clip_range)
        return AlgorithmTraits(keeps=frozenset(keeps), clip_range=clip, sde=())

    @hookimpl
    def prepare_actor_batch(self, policy: Policy, batch: TensorDict, iteration: int, seed: int) -> TensorDict:
        """Add noise levels and noise of every sample, and the old value l_old that takes the place of log-probs."""
        batch = self.config.noised(batch, iteration, seed)

        def likeness(part: TensorDict, steps: Sequence[int]) -> Tensors:
            levels = [noised_at(part, step, policy.device) for step in steps]
            found = [self.likeness(at, policy.velocity(part, at.x, at.t)) for at in levels]
            return {"likeness": torch.stack(found, dim=1)}

        batch["old_log_probs"] = policy.map_steps(batch, likeness)["likeness"]
        return batch

    def loss_at(self, policy: Policy, batch: TensorDict, step: int) -> LossOutput:
        """(B,) loss at one noise level of each row."""
        at = noised_at(batch, step, policy.device)
        velocity = policy.velocity(batch, at.x, at.t)
        change = self.likeness(at, velocity) - batch["old_log_probs"][:, step].to(policy.device)  # (B,)
        advantages = batch["advantages"].to(policy.device)
        loss, metrics = clipped(advantages, change, self.config.clip_range, self.config.clip_range)
        metrics["matching_error"] = at.error(velocity)
        distances: dict[Copy, float] = {"reference": self.config.kl_beta, "ema": self.config.ema_beta}
        for name, beta in distances.items():
            if beta > 0:
                with policy.weights(name):
                    other = policy.velocity(batch, at.x, at.t)
                metrics[f"{name}_distance"] = at.mean({n: (v - other[n]) ** 2 for n, v in velocity.items()})
                loss = loss + beta * metrics[f"{name}_distance"]
        return LossOutput(loss, {n: value.detach() for n, value in metrics.items()})

    def likeness(self, at: Noised, velocity: Streams) -> torch.Tensor:
        """(B,) values of l, which takes the place of a log-prob."""
        error, s, p = at.error(velocity), at.level, self.config.power
        return {
            "uniform": lambda: -error,
            "t": lambda: -s * error,
            "t2": lambda: -(s**2) * error,
            "huber": lambda: -s * (_root(error, 0.5) - 1e-5),
            "ghuber": lambda: -s * _root(error, p) / p,
        }[self.config.weighting]()


def _root(error: torch.Tensor, power: float) -> torch.Tensor:
    """(B,) error to the power, with gradient 0 where the error is 0: there a root's own gradient is infinite."""
    exact = error == 0
    return (error.masked_fill(exact, 1.0) ** power).masked_fill(exact, 0.0)
