"""What core asks of the parts that plugins supply: policy, engine, backend, experience source, launcher.

Rewards are in :mod:`omni_rl.contracts.reward`. Trackers are observers: the hooks ``on_*`` of
:mod:`omni_rl.contracts.hooks`, and :class:`Tracker`'s methods for what a checkpoint keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from tensordict import TensorDict

from omni_rl.contracts.traits import Copy
from omni_rl.contracts.types import Evaluation, Sample, Streams, Tensors

if TYPE_CHECKING:
    from omni_rl.contracts.events import State
    from omni_rl.contracts.model import LoadedModel
    from omni_rl.contracts.requests import Request
    from omni_rl.contracts.spec import RunSpec

Form = Literal["merged", "adapter"]
"""``adapter``: the two matrices of every LoRA, named as PEFT saves them, alpha / rank multiplied into B.
``merged``: full weights; with LoRA those that an adapter changes, otherwise all that train.
"""

TakesWeights = Literal["none", "merged", "adapter"]
"""What an engine is sent after an update; ``none``: it samples from the backend's own weights."""

Weights = Iterator[tuple[str, torch.Tensor]]
"""(canonical name, full tensor) one after the other; fp32, on the trainer's device."""


class Policy(Protocol):
    """The trained model as an algorithm sees it."""

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The trained weights by canonical name."""

    @property
    def named(self) -> Mapping[str, Tensors]:
        """The kept copies of the trained weights (``reference``, ``ema``, ``old``), each by canonical name."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def predict(
        self,
        x: Streams,
        t: torch.Tensor,
        conditioning: Tensors,
        call: Mapping[str, Any] | None = None,
        step: torch.Tensor | None = None,
    ) -> Streams:
        """Velocity at (x, t); x (B, ...) fp32, t (B,) fp32 in the pipeline's unit; differentiable.

        ``call`` holds the pipeline's arguments; None means the run's. ``step`` (B,) int64 as in the hook ``predict``.
        """

    def evaluate(self, batch: TensorDict, steps: Sequence[int]) -> list[Evaluation]:
        """Replay the stored steps ``steps`` of a trajectory batch (B,) under the current weights, in one forward.

        One :class:`Evaluation` per step, in order; differentiable.
        """

    def velocity(self, batch: TensorDict, x: Streams, t: torch.Tensor, step: torch.Tensor | None = None) -> Streams:
        """:meth:`predict` with the conditioning and the pipeline's arguments of a batch (B,)."""

    def map_steps(self, batch: TensorDict, measure: Callable[[TensorDict, Sequence[int]], Tensors]) -> Tensors:
        """``measure(part, steps)`` of every stored step of (N,) rows, by micro-batches and without gradient.

        ``measure`` answers (B, len(steps), ...) tensors by name; the result has them as (N, T, ...) on the CPU, floats
        in fp32. T is the number of stored steps, the second dimension of ``timesteps``.
        """

    def weights(self, copy: Copy) -> AbstractContextManager[None]:
        """Within the context the model holds that copy of the weights; no gradient."""


@dataclass(frozen=True)
class SyncReport:
    """An engine's receipt for a weight sync.

    Attributes:
        policy_version: the version the engine now samples with.
        landed: name of each weight that it was sent -> where it landed in the engine; for an engine that samples from
            the backend's own weights, the trained parameters.
    """

    policy_version: int
    landed: Mapping[str, str]


class Engine(Protocol):
    """Performs the rollout. Streaming: the loop consumes what is finished in whatever order it finishes.

    Attributes:
        honours: the hooks that the engine calls; a run that overrides another one is refused.
        supplies: the model hooks that an engine with an implementation of the model of its own stands for: a model
            plugin may override these all the same, and the gate holds the engine's samples to them. Empty for others.
        notices: sentences about what it does otherwise than asked; the gate shows them.
        takes_weights: what :meth:`sync` is given. ``adapter`` only where adapters train.
    """

    honours: frozenset[str]
    supplies: frozenset[str]
    notices: Sequence[str]

    @property
    def takes_weights(self) -> TakesWeights:
        """A plain attribute will do."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; returns at once or after the work, as the engine likes."""

    def completed(self) -> Iterator[Sample]:
        """Every submitted request's sample exactly once, in any order; ends when none is outstanding."""

    def sync(self, policy_version: int, weights: Weights) -> SyncReport:
        """Take the weights that later requests are drawn with.

        ``weights`` has the form that ``takes_weights`` names, and is empty for ``none``. It is drained here, whole: it
        may be a collective of all ranks. What the engine needs to restart by itself it keeps; it never asks the
        backend.
        """

    def close(self) -> None:
        """Release processes and memory. Idempotent."""


class Backend(Protocol):
    """Owns the trained weights and updates them."""

    policy: Policy

    @property
    def model(self) -> LoadedModel | None:
        """The loaded model whose weights it trains, for an engine in this process; None where they are elsewhere."""

    def update(self, batch: TensorDict, iteration: int) -> dict[str, float]:
        """Train on one iteration's batch (all its mini-batches and inner epochs); returns ``actor/*`` metrics."""

    def weights(self, copy: Copy, form: Form) -> Weights:
        """A copy of the trained weights; may be a collective, which every rank drains or none does."""

    def weight_names(self, form: TakesWeights) -> Sequence[str]:
        """The names that :meth:`weights` yields; for ``none`` those of the trained parameters."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything needed to go on exactly: tensors for safetensors, the rest as JSON.

        Tensors are named ``<group>/<canonical name>``; the group ``policy`` holds the trained weights, each kept copy
        has a group of its own name.
        """

    def load_state(self, tensors: Tensors, extra: dict[str, Any]) -> None:
        """The inverse of :meth:`state`; raises CheckpointError naming what does not fit."""

    def close(self) -> None:
        """Release processes and memory. Idempotent."""


@dataclass(frozen=True)
class Experience:
    """What one iteration trains on.

    Attributes:
        batch: (N,) rows for ``Backend.update``, N >= 1.
        figures: for the metrics row.
        samples: how many samples it cost.
        notes: sentences to show (a reward that failed, for instance).
    """

    batch: TensorDict
    figures: Mapping[str, float]
    samples: int
    notes: Sequence[str] = field(default_factory=tuple)


class ExperienceSource(Protocol):
    """Gives the loop one iteration's experience after the other."""

    @property
    def staleness(self) -> int:
        """Most weight syncs that a sample may be older than the policy it trains; 0: on-policy."""

    def next(self, state: State) -> Experience:
        """For iteration ``state.iteration``, trained at policy version ``state.policy_version``."""

    def held_out(self, state: State) -> Mapping[str, float]:
        """Figures on held-out data of its own, under the weights that are in place; {} when it has none."""

    def state(self) -> dict[str, Any]:
        """JSON data that a checkpoint keeps: what is in flight."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`; ``{}`` from a checkpoint that kept nothing."""

    def close(self) -> None:
        """Release what it holds. Idempotent."""


class Tracker(Protocol):
    """An observer with a state and an end, named in ``tracker:``. See ``omni_rl_trackers.base`` for a base."""

    def state(self) -> dict[str, Any]:
        """JSON data that a checkpoint keeps, so that a resumed run continues in the same place."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`; ``{}`` when the checkpoint knows nothing of this tracker."""

    def close(self, failed: bool = False) -> None:
        """Send what is outstanding. Idempotent."""


class Launcher(Protocol):
    """Decides where a run runs: a callable, or a class with a pydantic ``Config`` whose instances are."""

    def __call__(self, spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
        """Call the function at ``entry`` (``package.module:function``) as ``function(spec, **arguments)``.

        ``arguments`` is JSON data. Answers what the function answers; from another process,
        ``omni_rl.authoring.engine.run_entry`` gives and takes JSON in its place.
        """
