"""Stand-ins for a pipeline's scheduler, by which it is asked for its velocity, its table, or its own loop.

All of them answer attribute look-ups from the pipeline's own scheduler, so that a pipeline that reads
``scheduler.config``, inspects ``set_timesteps`` or asks for the scheduler's class sees what it expects. Rollout engines
that run a pipeline's own loop derive theirs from ``StandIn`` too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from omni_rl.contracts.types import SigmaTable


class Answered(BaseException):
    """Leaves a pipeline's ``__call__`` once the answer is known. A BaseException, so no pipeline swallows it."""


Stepped: TypeAlias = SchedulerOutput | tuple[torch.Tensor]


def _stepped(sample: torch.Tensor, return_dict: bool) -> Stepped:
    return SchedulerOutput(prev_sample=sample) if return_dict else (sample,)


class StandIn:
    """Delegates everything it does not define to the pipeline's own scheduler.

    Attributes:
        sign: -1 where the own sigmas rise from noise at 0 to data at 1: there omni-rl's sigma is 1 minus that one, and
            its velocity the negative of what is handed to ``step``.
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


class OneStep(StandIn):
    """A schedule of exactly one step at timestep ``t``; records what is handed to ``step``, then leaves.

    ``t`` is 0-d, or (B,) for the vector call: the pipeline's loop over timesteps then sees one (B,) timestep.

    Attributes:
        velocities, samples: per stream, in the order in which the pipeline steps them.
    """

    def __init__(
        self, scheduler: Any, t: torch.Tensor, streams: int | None, instead: list[torch.Tensor] | None = None
    ) -> None:
        super().__init__(scheduler)
        self._t = t
        self._streams = streams
        self._instead = instead
        self.velocities: list[torch.Tensor] = []
        self.samples: list[torch.Tensor] = []

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
    ) -> None:
        """Ignore what the pipeline asks for: the table is this step."""
        t = self._t.to(device) if device is not None else self._t
        self.timesteps = t[None]  # (1,) or (1, B)
        sigma = t / self._scheduler.config.num_train_timesteps
        self.sigmas = torch.stack([sigma, torch.zeros_like(sigma)])  # (2,) or (2, B): float() of a vector must fail
        self.num_inference_steps = 1

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *_: Any,
        return_dict: bool = True,
        **__: Any,
    ) -> Stepped:
        """Record, and leave once every stream was stepped (never, when ``streams`` is None: then the call returns)."""
        self.velocities.append(self.sign * model_output)
        self.samples.append(sample)
        if len(self.velocities) == self._streams:
            raise Answered
        return _stepped(sample if self._instead is None else self._instead[len(self.samples) - 1], return_dict)


def idle(scheduler: Any) -> OneStep:
    """For questions that are answered before a step is taken."""
    return OneStep(scheduler, torch.tensor(1000.0), streams=None)


class Table(StandIn):
    """The pipeline's own scheduler, left alone until its first ``step``: by then its table is set."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(copy.deepcopy(scheduler))

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Not needed: no step is taken."""

    def step(self, *_: Any, **__: Any) -> None:
        """The table is complete."""
        raise Answered


class Euler(StandIn):
    """Plain Euler steps over a given table: the pipeline's own loop with its own schedule and no solver of its own.

    Latents are kept here in fp32 from ``start`` on, because a pipeline in bf16 rounds its own at every step; latents
    that the pipeline changes between two steps (frozen elements) count as it changed them.

    Attributes:
        latents: the current latents of each stream, fp32, in stepping order.
    """

    def __init__(self, scheduler: Any, table: SigmaTable, start: Sequence[torch.Tensor]) -> None:
        super().__init__(scheduler)
        self._table = table
        self._calls = 0
        self.latents = [x.float() for x in start]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
    ) -> None:
        """The table is given."""
        self.timesteps = self._table.timesteps.to(device)
        self.sigmas = self._table.sigmas
        self.num_inference_steps = len(self.timesteps)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *_: Any,
        return_dict: bool = True,
        **__: Any,
    ) -> Stepped:
        """x + (sigma' - sigma) v; streams take turns."""
        index, stream = divmod(self._calls, len(self.latents))
        self._calls += 1
        kept = self.latents[stream]
        x = kept if torch.equal(kept.to(sample.dtype), sample) else sample.float()
        self.latents[stream] = (
            x - (self.sigmas[index] - self.sigmas[index + 1]).item() * self.sign * model_output.float()
        )
        return _stepped(self.latents[stream].to(sample.dtype), return_dict)
