"""What core asks of engines, backends, policies and other parts that plugins supply."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from tensordict import TensorDict

from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Evaluation, Sample, Streams, Tensors

if TYPE_CHECKING:
    pass


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
