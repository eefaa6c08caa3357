"""Interfaces that plugins implement: policy, engine, backend, experience source, tracker, launcher.

Rewards are in :mod:`omni_rl.contracts.reward`. Trackers are observers: they implement the hooks ``on_*`` of
:mod:`omni_rl.contracts.hooks`, and the methods of :class:`Tracker` for their state in checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

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
"""``adapter``: the LoRA matrices A and B, named as PEFT saves them, with alpha / rank multiplied into B.
``merged``: full weight tensors; with LoRA those that have an adapter, merged with it, otherwise all trained ones.
"""

TakesWeights = Literal["none", "merged", "adapter"]
"""The weights that an engine needs after an update; ``none``: it samples with the backend's own weights."""

Weights = Iterator[tuple[str, torch.Tensor]]
"""Pairs (canonical name, full tensor); tensors are fp32, on the trainer's device."""


class Policy(Protocol):
    """The trained model, as algorithms use it."""

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The trained parameters by canonical name."""

    @property
    def named(self) -> Mapping[str, Tensors]:
        """The stored copies of the trained weights (``reference``, ``ema``, ``old``), each by canonical name."""

    @property
    def device(self) -> torch.device:
        """The device of the model."""

    def predict(
        self,
        x: Streams,
        t: torch.Tensor,
        conditioning: Tensors,
        call: Mapping[str, Any] | None = None,
        step: torch.Tensor | None = None,
    ) -> Streams:
        """Velocity at (x, t); x (B, ...) fp32, t (B,) fp32 in the pipeline's unit; differentiable.

        Returns (B, ...) fp32 per stream. ``call`` holds the pipeline's arguments; None: those of the configuration.
        ``step`` (B,) int64 as in the hook ``predict``.
        """

    def evaluate(self, batch: TensorDict, steps: Sequence[int]) -> list[Evaluation]:
        """Replay the stored steps ``steps`` of a trajectory batch (B,) under the current weights, in one forward.

        One :class:`Evaluation` per step, in order; differentiable.
        """

    def velocity(self, batch: TensorDict, x: Streams, t: torch.Tensor, step: torch.Tensor | None = None) -> Streams:
        """:meth:`predict` with the conditioning and the pipeline arguments of a trajectory batch (B,)."""

    def map_steps(self, batch: TensorDict, measure: Callable[[TensorDict, Sequence[int]], Tensors]) -> Tensors:
        """Apply ``measure(part, steps)`` to every stored step of a batch (N,), in micro-batches and without gradients.

        ``measure`` returns (B, len(steps), ...) tensors by name; the result holds (N, T, ...) tensors on the CPU,
        floats as fp32. T is the number of stored steps, the second dimension of ``timesteps``. ``part`` has rows of one
        size; the results of all sizes must have equal shapes. All ranks must call it equally often, also one that has
        no rows (N = 0).
        """

    def weights(self, copy: Copy) -> AbstractContextManager[None]:
        """A context in which the model has that copy of the weights, without gradients."""


@dataclass(frozen=True)
class SyncReport:
    """An engine's confirmation of a weight sync.

    Attributes:
        policy_version: the version that the engine now samples with.
        landed: name of each weight that the engine received -> name of the engine's parameter that holds it. An engine
            that samples with the backend's own weights lists the trained parameters.
    """

    policy_version: int
    landed: Mapping[str, str]


class Engine(Protocol):
    """Performs the rollout. It may return samples in any order, as they finish.

    Attributes:
        honours: the hooks that the engine calls; the gate fails if the run overrides an engine hook that is not listed.
        supplies: for an engine with its own implementation of the model: the model hooks that this implementation
            replaces. A model plugin may still override them; the gate then compares the engine's samples with the
            plugin's. Empty for other engines.
        notices: sentences about settings that the engine does not follow exactly; the gate shows them.
        takes_weights: the form of the weights that :meth:`sync` receives; ``adapter`` only if LoRA is trained.
    """

    honours: frozenset[str]
    supplies: frozenset[str]
    notices: Sequence[str]

    @property
    def takes_weights(self) -> TakesWeights:
        """Also allowed: a plain attribute."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. The engine may sample them before it returns, or later."""

    def completed(self) -> Iterator[Sample]:
        """Yield the sample of every submitted request exactly once, in any order; end when no request is left."""

    def sync(self, policy_version: int, weights: Weights) -> SyncReport:
        """Load the weights with which later requests are sampled.

        ``weights`` has the form ``takes_weights``, and is empty for ``none``. The engine must consume all of it in this
        call, because it may be a collective operation of all ranks. An engine that restarts its own processes must keep
        a copy: it cannot request the weights again.
        """

    def close(self) -> None:
        """Release processes and memory. Idempotent."""


class Backend(Protocol):
    """Holds the trained weights and updates them."""

    policy: Policy

    @property
    def model(self) -> LoadedModel | None:
        """The trained model, if it is in this process (an engine may then sample with it); otherwise None."""

    def update(self, batch: TensorDict, iteration: int) -> dict[str, float]:
        """Train on one iteration's batch (N,): all mini-batches and inner epochs. Returns ``actor/*`` metrics."""

    def weights(self, copy: Copy, form: Form) -> Weights:
        """Yield a copy of the trained weights. May be a collective: all ranks must consume it, or none."""

    def weight_names(self, form: TakesWeights) -> Sequence[str]:
        """The names that :meth:`weights` yields; for ``none`` those of the trained parameters."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything needed to resume exactly: tensors, and the rest as JSON data.

        Tensors are named ``<group>/<canonical name>``. The group ``policy`` holds the trained weights; each stored copy
        is a group with its own name. They are stored before the next update, so they need not be copies. On several
        ranks they may be sharded (DTensors): each rank stores its parts of them, and rank 0 everything else.
        """

    def load_state(self, tensors: Mapping[str, torch.Tensor], extra: dict[str, Any]) -> None:
        """The inverse of :meth:`state`; raises CheckpointError with the name of a tensor that does not fit.

        Each access to ``tensors`` may read one whole tensor from the disk, on the CPU.
        """

    def close(self) -> None:
        """Release processes and memory. Idempotent."""


@runtime_checkable
class TrainsOnRanks(Protocol):
    """A backend that also trains on several ranks; without this attribute it is refused there.

    On several ranks, ``update`` gets this rank's rows, whole groups, maybe none (N = 0), and must train as if one
    process had the rows of all ranks. Its metrics must be equal on all ranks.
    """

    trains_on_ranks: bool


@dataclass(frozen=True)
class Experience:
    """The training data of one iteration.

    Attributes:
        batch: (N,) rows for ``Backend.update``.
        figures: values to log, by metric name.
        samples: number of samples drawn for it.
        notes: sentences to show to the user, e.g. about a reward that failed.
        dealt: with several ranks, whether ``batch`` holds this rank's share, whole groups; otherwise every rank has the
            same rows, and the run divides them.
    """

    batch: TensorDict
    figures: Mapping[str, float]
    samples: int
    notes: Sequence[str] = field(default_factory=tuple)
    dealt: bool = False


class ExperienceSource(Protocol):
    """Returns the training data of each iteration."""

    @property
    def staleness(self) -> int:
        """Maximum number of weight syncs between sampling and training of a sample; 0: on-policy."""

    def next(self, state: State) -> Experience:
        """The data for iteration ``state.iteration``, which updates policy version ``state.policy_version``."""

    def held_out(self, state: State) -> Mapping[str, float]:
        """Metrics on the source's own held-out data, with the current weights; ``{}`` if it has none."""

    def state(self) -> dict[str, Any]:
        """JSON data for a checkpoint, e.g. requests in flight."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`; receives ``{}`` if the checkpoint has no state of this source."""

    def close(self) -> None:
        """Release all resources. Idempotent."""


class Tracker(Protocol):
    """An experiment tracker, named in ``tracker:``. It also implements ``on_*`` hooks.

    ``omni_rl_trackers.base`` has a base class, and ``omni_rl.authoring.tracker`` helper functions.
    """

    def state(self) -> dict[str, Any]:
        """JSON data for a checkpoint, e.g. the tracker's run id, so that a resumed run continues the same log."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`; receives ``{}`` if the checkpoint has no state of this tracker."""

    def close(self, failed: bool = False) -> None:
        """Send all pending data. Idempotent."""


class Launcher(Protocol):
    """Starts a run in this or other processes: a callable, or a class with a pydantic ``Config`` and ``__call__``."""

    def __call__(self, spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
        """Call the function ``entry`` (``package.module:function``) as ``function(spec, **arguments)``.

        ``arguments`` is JSON data. Returns the function's result. For a call in another process,
        ``omni_rl.authoring.engine.run_entry`` takes and returns JSON text.
        """
