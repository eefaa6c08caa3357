"""The forward process x_s = (1 - s) x0 + s n, for algorithms that train on finished samples.

They need no SDE window, log-probs or stored steps: ``latents/<stream>/final`` is x0. Noise levels and noise are drawn
from (seed, iteration, sample), so they do not depend on micro-batches, and are equal in a resumed run. The target of
the velocity in flow matching is u = n - x0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from tensordict import TensorDict

from omni_rl.contracts import batches, trajectory
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.interfaces import Policy
from omni_rl.contracts.requests import NO_STEPS, Window
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.contracts.types import LossOutput, Streams
from omni_rl.objectives.steps import joined
from omni_rl.schedulers.randomness import randn, seed_of
from omni_rl.schedulers.transition import joint_mean

LEAST = 1e-3
"""The smallest noise level of uniform draws."""

Levels = Literal["schedule", "uniform", "logit_normal"]


class ForwardOptions(BaseModel):
    """The noise levels at which a sample is trained on."""

    model_config = ConfigDict(extra="forbid")

    levels: Levels = Field(
        "schedule", description="noise levels: of the rollout's schedule, or drawn uniformly or from a logit-normal"
    )
    levels_per_sample: PositiveInt | None = Field(
        None, description="noise levels per sample and iteration; null: as many as rollout.steps"
    )
    logit_mean: float = Field(0.0, description="mean of the normal distribution under logit_normal")
    logit_std: Annotated[float, Field(gt=0)] = Field(
        1.0, description="standard deviation of the normal distribution under logit_normal"
    )

    def noised(self, batch: TensorDict, iteration: int, seed: int) -> TensorDict:
        """The batch with T noise levels per row: adds ``timesteps`` (N, T), ``noise_levels`` (N, T) and the seeds
        ``noise/<stream>`` (N, T), and removes the entries of the SDE window.
        """
        return batches.change(batch, lambda rows: self._noised(rows, iteration, seed)) if len(batch) else batch

    def _noised(self, batch: TensorDict, iteration: int, seed: int) -> TensorDict:
        """The same for rows of one size."""
        rows = [seed_of(seed, "forward", iteration, int(i)) for i in batch["sample_id"]]
        table = batch["schedule"]
        count = self.levels_per_sample or table["timesteps"].shape[1]
        levels = torch.stack([self._levels(row, table["sigmas"][n], count) for n, row in enumerate(rows)])  # (N, T)
        batch = batch.exclude("order", "loss_weights", "log_probs", "sigmas", "draws")
        batch["noise_levels"] = levels
        batch["timesteps"] = torch.stack([timesteps_at(table[n], row) for n, row in enumerate(levels)])
        seeds = {s: [[seed_of(row, s, i) for i in range(count)] for row in rows] for s in batch["latents"].keys()}
        batch["noise"] = TensorDict({s: torch.tensor(value) for s, value in seeds.items()}, batch.batch_size)
        return batch

    def _levels(self, seed: int, sigmas: torch.Tensor, count: int) -> torch.Tensor:
        """(count,) noise levels of one row; ``sigmas`` (steps + 1,) is the schedule."""
        generator = torch.Generator().manual_seed(seed)
        if self.levels == "schedule":
            rounds = math.ceil(count / (len(sigmas) - 1))
            return torch.cat([sigmas[torch.randperm(len(sigmas) - 1, generator=generator)] for _ in range(rounds)])[
                :count
            ]
        # Stratified: one draw from each of `count` equal parts. A row covers the distribution evenly, and each single
        # draw still follows it.
        parts = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
        uniform = (parts / count).clamp(min=LEAST).double()
        if self.levels == "uniform":
            return uniform.float()
        return torch.sigmoid(self.logit_mean + self.logit_std * torch.special.ndtri(uniform)).float()


class ForwardProcess(ABC):
    """Base class of algorithms on the forward process."""

    @hookimpl
    def traits(self, config: Any) -> AlgorithmTraits:
        """It learns from finished samples, drawn without noise."""
        return AlgorithmTraits(sde=())

    @hookimpl
    def sde_window(self) -> Window:
        """No window: samples are drawn with ODE steps only."""
        return NO_STEPS

    @hookimpl
    def compute_loss(self, policy: Policy, batch: TensorDict, steps: Sequence[int]) -> LossOutput:
        """(B, S), one noise level of each row after the other."""
        return joined([self.loss_at(policy, batch, step) for step in steps])

    @abstractmethod
    def loss_at(self, policy: Policy, batch: TensorDict, step: int) -> LossOutput:
        """(B,) loss and metrics at noise level number ``step`` of each row."""


def timesteps_at(schedule: TensorDict, levels: torch.Tensor) -> torch.Tensor:
    """(T,) timesteps in the pipeline's unit for noise levels (T,): the schedule's own values, linear between them.

    Below the schedule's last level, linear down to timestep 0 at level 0.
    """
    sigmas, timesteps = schedule["sigmas"][:-1].double(), schedule["timesteps"].double()
    zero = torch.zeros(1, dtype=torch.float64)
    known, values = torch.cat([zero, sigmas.flip(0)]), torch.cat([zero, timesteps.flip(0)])  # rising
    right = torch.searchsorted(known, levels.double()).clamp(1, len(known) - 1)
    share = (levels.double() - known[right - 1]) / (known[right] - known[right - 1])
    return (values[right - 1] + share * (values[right] - values[right - 1])).float()


@dataclass(frozen=True)
class Noised:
    """Samples with one noise level each, on the policy's device; masked elements are not noised.

    Attributes:
        x0, x, target: (B, ...) fp32 per stream: clean latents, noised latents, and the velocity n - x0.
        t: (B,) fp32, the pipeline's timestep.
        level: (B,) fp32, the noise level s.
        masks: per stream, True where an element counts.
    """

    x0: Streams
    x: Streams
    target: Streams
    t: torch.Tensor
    level: torch.Tensor
    masks: Streams

    def mean(self, values: Streams) -> torch.Tensor:
        """(B,) mean over the elements that count."""
        return joint_mean(values, self.masks)

    def error(self, velocity: Streams) -> torch.Tensor:
        """(B,) mean (v - u)^2."""
        return self.mean({n: (v - self.target[n]) ** 2 for n, v in velocity.items()})


def along(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) values as (B, 1, ..., 1), to broadcast with ``like`` (B, ...)."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def noised_at(batch: TensorDict, step: int, device: torch.device, samples: str = "latents") -> Noised:
    """The rows of a batch from :meth:`ForwardOptions.noised` at their noise level number ``step``.

    Args:
        samples: the entry of the batch that contains x0.
    """
    level = batch["noise_levels"][:, step].to(device)
    masks = {n: m.to(device) for n, m in trajectory.masks_of(batch).items()}
    x0 = {n: stored["final"].to(device) for n, stored in batch[samples].items()}
    x, target = {}, {}
    for n, clean in x0.items():
        seeds = batch["noise", n][:, step].tolist()
        noise = torch.stack([randn(seed, clean.shape[1:]) for seed in seeds]).to(clean)
        s = along(level, clean)
        mixed = (1 - s) * clean + s * noise
        x[n] = torch.where(masks[n], mixed, clean) if n in masks else mixed
        target[n] = noise - clean
    return Noised(x0, x, target, batch["timesteps"][:, step].to(device), level, masks)
