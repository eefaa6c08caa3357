"""Names for the tensors that hooks exchange. Shape legend used throughout omni-rl:

``B`` samples, ``T`` stored steps, ``L`` prompt tokens, ``D`` embedding width, ``...`` the latent's own dimensions.
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
"""Latents or velocities by stream name; ``x`` is the first (often the only) stream. Each (B, ...), fp32."""

Tensors = dict[str, torch.Tensor]
"""Named tensors with a leading batch dimension (B, ...)."""

NO_TOKENS: Tensors = {}
"""What ``tokenize`` answers for a model whose plugin does not tokenise: the pipeline then encodes text itself."""

NO_CONDITION: Tensors = {}
"""What ``prepare_condition`` answers when nothing but the prompt conditions the sample."""


@dataclass(frozen=True)
class SigmaTable:
    """The exact schedule that samples are drawn with.

    Attributes:
        timesteps: (steps,) fp32, what the denoiser is told, in the pipeline's own unit (usually 0..1000).
        sigmas: (steps + 1,) fp32, noise levels; falls from about 1 to 0.
    """

    timesteps: torch.Tensor
    sigmas: torch.Tensor


@dataclass
class DenoiseState:
    """A batch of requests on its way through the denoising loop. All rows share the schedules, not the window.

    Attributes:
        requests: B requests of equal ``steps`` and ``call``.
        x: current latents, fp32, on the model's device.
        conditioning: what ``predict`` needs besides x and t; (B, ...) tensors on the model's device.
        tokens: token ids and masks as recorded in the trajectory; empty for models that take text.
        tables: the schedule of each stream; all have the same number of steps.
        masks: per stream, broadcastable to the latents; True where an element counts. Absent: all count.
        step: index of the next step.
        recorded: what the window kept so far (core's recorder owns it).
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
        """The schedule of the first stream, whose timesteps the denoiser is told."""
        return next(iter(self.tables.values()))

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        return self.step >= len(self.table.timesteps)


@dataclass
class Sample:
    """What an engine returns for one request: a trajectory, or the reason why there is none.

    ``trajectory`` has batch size [] and the keys of :mod:`omni_rl.contracts.trajectory`, media included; on the CPU.
    """

    request: Request
    trajectory: TensorDict | None = None
    error: str | None = None


@dataclass
class LossOutput:
    """The loss of a micro-batch at S stored steps.

    Attributes:
        loss: (B, S) loss of each sample at each step, with gradient. The backend averages over samples and steps, so
            that micro-batch sizes do not matter. One loss per trajectory: the same number in every column.
        metrics: (B, S) detached figures, averaged the same way and logged as ``actor/<name>``.
    """

    loss: torch.Tensor
    metrics: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A stored step under the policy's current weights.

    Attributes:
        log_prob: (B,) fp32 log-prob of the stored next latents, in the rollout's convention.
        transitions: per stream, the distribution of the next latents; KL and ratios are written against it.
    """

    log_prob: torch.Tensor
    transitions: dict[str, Transition]


def lossless(value: torch.Tensor) -> torch.Tensor:
    """fp32, so that rollout and replay start from the same tensor whatever the encoder's precision."""
    return value.float() if value.is_floating_point() else value
