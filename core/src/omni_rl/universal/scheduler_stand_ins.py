"""Objects that take the place of a pipeline's scheduler, to read its velocity or its table, or to run its own loop.

All of them answer attribute look-ups from the pipeline's own scheduler, so that a pipeline that reads
``scheduler.config``, inspects ``set_timesteps`` or asks for the scheduler's class sees what it expects. Engines that
run a pipeline's own loop derive theirs from ``StandIn`` too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from omni_rl.contracts.types import SigmaTable

Stepped: TypeAlias = SchedulerOutput | tuple[torch.Tensor]


class LeaveCall(BaseException):
    """Ends a pipeline's ``__call__`` early, once it has computed what is wanted.

    A BaseException, so that no pipeline swallows it.
    """


class StandIn:
    """Delegates everything that it does not define to the pipeline's own scheduler.

    Attributes:
        sign: -1 where the scheduler's own sigmas rise from noise at 0 to data at 1. There omni-rl's sigma is 1 minus
            the scheduler's, and its velocity is the negative of what ``step`` is called with. 1 otherwise.
    """

    order = 1

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.sign = -1 if getattr(scheduler, "config", {}).get("invert_sigmas") else 1

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The scheduler's, for pipelines that ask ``isinstance(self.scheduler, ...)``."""
        return type(self._scheduler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_scheduler"], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return self  # pipelines with several streams copy their scheduler; the copies must record in one place

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Pipelines announce index 0; there is no table here to index."""

    def scale_model_input(self, sample: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Flow matching does not scale its input."""
        return sample


class Table(StandIn):
    """The pipeline's own scheduler, left alone until its first ``step``: by then its table is set.

    Attributes:
        first: the largest timestep of the first step; None before it.
    """

    def __init__(self, scheduler: Any) -> None:
        super().__init__(copy.deepcopy(scheduler))
        self.first: float | None = None

    def step(self, model_output: Any, timestep: Any, *_: Any, **__: Any) -> None:
        """The table is complete: leave."""
        self.first = float(torch.as_tensor(timestep).max())
        raise LeaveCall


class Own(StandIn):
    """The pipeline's own scheduler, a copy, whose latest latents are kept.

    Attributes:
        latents: (B, ...) fp32 after the latest step, in one list entry; empty before the first step.
    """

    def __init__(self, scheduler: Any) -> None:
        super().__init__(copy.deepcopy(scheduler))
        self.latents: list[torch.Tensor] = []

    def set_begin_index(self, begin_index: int = 0) -> None:
        """As the scheduler does."""
        self._scheduler.set_begin_index(begin_index)

    def scale_model_input(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the scheduler does."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(sample, *args, **kwargs)
        return scaled

    def step(self, *args: Any, **kwargs: Any) -> Stepped:
        """As the scheduler does."""
        stepped: Stepped = self._scheduler.step(*args, **kwargs)
        self.latents = [(stepped[0] if isinstance(stepped, tuple) else stepped.prev_sample).float()]
        return stepped


class _GivenTable(StandIn):
    """A table that is given, whatever the pipeline asks for."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
    ) -> None:
        """Set the given table; only ``device`` is used."""
        self.timesteps, self.sigmas = self._table(device)
        self.num_inference_steps = len(self.timesteps)

    def scale_noise(self, sample: torch.Tensor, timestep: Any, noise: torch.Tensor) -> torch.Tensor:
        """(1 - sigma) sample + sigma noise, at a timestep of this table: for pipelines that add noise to media."""
        known, given = self.timesteps.reshape(len(self.timesteps), -1)[:, 0], torch.as_tensor(timestep).flatten()
        row = int((known - given[0].to(known)).abs().argmin()) if len(given) else 0  # none where no step follows
        sigma = self.sigmas[row].flatten()[0].item()
        return (1 - sigma) * sample + sigma * noise

    def add_noise(self, sample: torch.Tensor, noise: torch.Tensor, timestep: Any) -> torch.Tensor:
        """:meth:`scale_noise` under the name that other schedulers give it."""
        return self.scale_noise(sample, timestep, noise)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *_: Any,
        return_dict: bool = True,
        **__: Any,
    ) -> Stepped:
        """The latents after this step, in the form that the pipeline asks for."""
        following = self._following(self.sign * model_output, sample)
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def _table(self, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def _following(self, velocity: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class OneStep(_GivenTable):
    """A schedule of exactly one step at timestep ``t``. Records what ``step`` is called with, then leaves.

    Args:
        t: 0-d, or (B,): the pipeline's loop over timesteps then sees one (B,) timestep.
        streams: after how many calls of ``step`` to leave; None: never, so that ``__call__`` returns.
        final: what ``step`` returns for each stream; the sample itself if None.

    Attributes:
        velocities, samples: per stream, in the order in which the pipeline steps them.
    """

    def __init__(
        self, scheduler: Any, t: torch.Tensor, streams: int | None, final: list[torch.Tensor] | None = None
    ) -> None:
        super().__init__(scheduler)
        self._t = t
        self._streams = streams
        self._final = final
        self.velocities: list[torch.Tensor] = []
        self.samples: list[torch.Tensor] = []

    def _table(self, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        t = self._t.to(device)
        sigma = t / self._scheduler.config.num_train_timesteps
        # Timesteps (1,) or (1, B), sigmas (2,) or (2, B): a pipeline that takes one of B for a number must fail
        return t[None], torch.stack([sigma, torch.zeros_like(sigma)])

    def _following(self, velocity: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        self.velocities.append(velocity)
        self.samples.append(sample)
        if len(self.velocities) == self._streams:
            raise LeaveCall
        return sample if self._final is None else self._final[len(self.samples) - 1]


def never_stepped(scheduler: Any) -> OneStep:
    """For calls that are left before a step is taken."""
    return OneStep(scheduler, torch.tensor(1000.0), streams=None)


class Euler(_GivenTable):
    """Plain Euler steps over a given table: the pipeline's own loop with its own schedule and no solver of its own.

    Latents are kept here in fp32 from ``start`` on, because a pipeline in bf16 rounds its own at every step. Latents
    that the pipeline itself changes between two steps (frozen elements) are taken as it changed them.

    Attributes:
        latents: the current latents of each stream, fp32, in stepping order.
        changed: whether the pipeline has changed latents between two steps.
    """

    def __init__(self, scheduler: Any, table: SigmaTable, start: Sequence[torch.Tensor]) -> None:
        super().__init__(scheduler)
        self._given = table
        self._calls = 0
        self.changed = False
        self.latents = [x.float() for x in start]

    def _table(self, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._given.timesteps.to(device), self._given.sigmas

    def _following(self, velocity: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """x + (sigma' - sigma) v; streams take turns."""
        index, stream = divmod(self._calls, len(self.latents))
        self._calls += 1
        kept = self.latents[stream]
        same = torch.equal(kept.to(sample.dtype), sample)
        self.changed |= not same
        x = kept if same else sample.float()
        self.latents[stream] = x - (self.sigmas[index] - self.sigmas[index + 1]).item() * velocity.float()
        return self.latents[stream].to(sample.dtype)


def own_solver(scheduler: Any) -> bool:
    """True if the pipeline's scheduler takes other steps than plain Euler steps."""
    stochastic = bool(getattr(scheduler, "config", {}).get("stochastic_sampling"))
    return stochastic or type(scheduler).__name__ != "FlowMatchEulerDiscreteScheduler"
