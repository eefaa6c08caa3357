"""Types of the arguments and results of hooks. Letters in shapes, everywhere in omni-rl:

``B`` samples, ``T`` stored steps, ``L`` prompt tokens, ``D`` embedding width, ``...`` the latents' own dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict

from omni_rl.contracts.requests import Request

if TYPE_CHECKING:
    from omni_rl.schedulers.transition import Transition

Streams = dict[str, torch.Tensor]
"""Latents or velocities by stream name, each (B, ...) fp32. The first stream, often the only one, is ``x``."""

Tensors = dict[str, torch.Tensor]
"""Named tensors with a leading batch dimension (B, ...)."""

NO_TOKENS: Tensors = {}
"""Result of ``tokenize`` if the model plugin does not tokenize: the pipeline then encodes text itself."""

NO_CONDITION: Tensors = {}
"""Result of ``prepare_condition`` if there is no conditioning besides the prompt."""


@dataclass(frozen=True)
class SigmaTable:
    """The exact schedule that samples are drawn with.

    Attributes:
        timesteps: (steps,) fp32, the denoiser's input, in the pipeline's own unit (usually 0..1000).
        sigmas: (steps + 1,) fp32, noise levels, from about 1 down to 0.
    """

    timesteps: torch.Tensor
    sigmas: torch.Tensor


@dataclass
class DenoiseState:
    """A batch of requests in the denoising loop. All rows have the same schedules, but may have different windows.

    Attributes:
        requests: B requests with equal ``steps`` and ``call``.
        x: current latents, (B, ...) fp32 per stream, on the model's device.
        conditioning: the ``conditioning`` argument of ``predict``; (B, ...) tensors on the model's device.
        tokens: token ids and masks for the trajectory; empty if the pipeline encodes text itself.
        tables: the schedule of each stream; all have the same number of steps.
        masks: per stream, broadcastable to the latents; True: the element is denoised. A missing stream has no mask.
        step: index of the next denoising step.
        recorded: the steps of the window that are stored so far; only core's loop reads and writes it.
    """

    requests: list[Request]
    x: Streams
    conditioning: Tensors
    tables: Mapping[str, SigmaTable]
    tokens: Tensors = field(default_factory=dict)
    masks: Streams = field(default_factory=dict)
    step: int = 0
    recorded: Any = None

    @property
    def table(self) -> SigmaTable:
        """The schedule of the first stream; the denoiser receives its timesteps."""
        return next(iter(self.tables.values()))

    @property
    def done(self) -> bool:
        """True after the last denoising step."""
        return self.step >= len(self.table.timesteps)


NOT_FINITE = "its latents or media are NaN or infinite"
"""The error of a sample that cannot be scored, because the model computed no numbers."""


@dataclass
class Sample:
    """An engine's result for one request: a trajectory, or the reason why sampling failed.

    ``trajectory`` is on the CPU and has batch size [] and the keys of :mod:`omni_rl.contracts.trajectory`, with media.
    """

    request: Request
    trajectory: TensorDict | None = None
    error: str | None = None


@dataclass
class LossOutput:
    """The loss of a micro-batch at S training steps.

    Attributes:
        loss: (B, S) loss of each sample at each step, with gradient. The backend averages it over samples and steps of
            the mini-batch. For one loss per trajectory, repeat it in every column.
        metrics: (B, S) values without gradient, averaged in the same way and logged as ``actor/<name>``; a name that
            ends in ``_max`` is logged as its maximum.
    """

    loss: torch.Tensor
    metrics: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A stored step, replayed with the current weights.

    Attributes:
        log_prob: (B,) fp32 log-prob of the stored next latents, by the same formula as in the rollout.
        transitions: per stream, the distribution of the next latents, for KL terms and ratios.
    """

    log_prob: torch.Tensor
    transitions: dict[str, Transition]


def lossless(value: torch.Tensor) -> torch.Tensor:
    """Cast floats to fp32, so that rollout and replay get the same tensor in every precision of the encoder."""
    return value.float() if value.is_floating_point() else value
