"""Names for the tensors that hooks exchange. Shape legend used throughout omni-rl:

``B`` samples, ``T`` stored steps, ``L`` prompt tokens, ``D`` embedding width, ``...`` the latent's own dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
    """A batch of requests on its way through the denoising loop. All rows share the schedule, not the window.

    Attributes:
        requests: B requests of equal ``steps`` and ``call``.
        x: current latents, fp32, on the model's device.
        conditioning: what ``predict`` needs besides x and t; (B, ...) tensors on the model's device.
        tokens: token ids and masks as recorded in the trajectory; empty for models that take text.
        table: the schedule.
        masks: per stream, broadcastable to the latents; True where an element counts. Absent: all count.
        step: index of the next step.
        recorded: what the window kept so far (core's recorder owns it).
    """

    requests: list[Request]
    x: Streams
    conditioning: Tensors
    table: SigmaTable
    tokens: Tensors = field(default_factory=dict)
    masks: Streams = field(default_factory=dict)
    step: int = 0
    recorded: Any = None

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
    """One step's loss for a micro-batch.

    Attributes:
        loss: (B,) per-sample loss, with gradient. The backend averages over samples and steps, so that micro-batch
            sizes do not matter.
        metrics: (B,) detached per-sample figures, averaged the same way and logged as ``actor/<name>``.
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


class Policy(Protocol):
    """The trained model as an algorithm sees it."""

    named: dict[str, Tensors]
    """Other values of the trained weights by canonical name: ``reference``, ``ema``, ``old``."""

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The trained weights by canonical name."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def predict(
        self, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any] | None = None
    ) -> Streams:
        """Velocity at (x, t); x (B, ...) fp32, t (B,) fp32 in the pipeline's unit; differentiable.

        ``call`` holds the pipeline's arguments; None means the run's.
        """

    def evaluate(self, batch: TensorDict, step: int) -> Evaluation:
        """Replay stored step ``step`` of a trajectory batch under the current weights; differentiable."""

    def velocity(self, batch: TensorDict, x: Streams, t: torch.Tensor) -> Streams:
        """:meth:`predict` with the conditioning and the pipeline's arguments of a batch (B,)."""

    def map_steps(self, batch: TensorDict, measure: Callable[[TensorDict, int], torch.Tensor]) -> torch.Tensor:
        """(N, T) fp32 on the CPU of ``measure(part, step)`` (B,), by micro-batches and without gradient.

        T is the number of stored steps, the second dimension of ``timesteps``.
        """

    def weights(self, name: str) -> AbstractContextManager[None]:
        """Within the context the model holds the named weights: ``reference``, ``ema`` or ``old``; no gradient."""


@dataclass(frozen=True)
class SyncReport:
    """An engine's receipt for a weight sync.

    Attributes:
        policy_version: the version the engine now samples with.
        landed: canonical (diffusers) parameter name -> where it landed in the engine.
    """

    policy_version: int
    landed: dict[str, str]


class Engine(Protocol):
    """Performs the rollout. Streaming: the loop consumes what is finished in whatever order it finishes.

    ``honours`` names the hooks that the engine calls; a run that overrides another one is refused. An engine with an
    implementation of the model of its own names in ``supplies`` the model hooks that it stands for: a model plugin may
    override these all the same, and the gate holds the engine's samples to them. ``notices``, sentences about what it
    does otherwise than asked, are shown by the gate.
    """

    honours: frozenset[str]

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; returns at once or after the work, as the engine likes."""

    def completed(self) -> Iterator[Sample]:
        """Every submitted request's sample exactly once, in any order; ends when none is outstanding."""

    def sync(self, policy_version: int) -> SyncReport:
        """Make the trainer's current weights the ones that later requests are drawn with."""

    def close(self) -> None:
        """Release processes and memory. Idempotent."""


class Backend(Protocol):
    """Updates the policy."""

    policy: Policy

    def update(self, batch: TensorDict, iteration: int) -> dict[str, float]:
        """Train on one iteration's batch (all its mini-batches and inner epochs); returns ``actor/*`` metrics."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything needed to go on exactly: tensors for safetensors, the rest as JSON."""

    def load_state(self, tensors: Tensors, extra: dict[str, Any]) -> None:
        """The inverse of :meth:`state`; raises CheckpointError naming what does not fit."""
