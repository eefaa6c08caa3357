"""Replaces the scheduler of a pipeline of vLLM-Omni: the run's schedule, and core's transition as its step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from omni_rl.authoring.engine import StandIn
from omni_rl.contracts.types import DenoiseState, Streams

Step = Callable[[DenoiseState, Streams], None]
"""Advances a state by one step; ``omni_rl.contracts.hooks.step_scheduler``, bound."""


class RolloutScheduler(StandIn):
    """Works with every pipeline that calls ``scheduler.step(...)``, or vLLM-Omni's wrapper of it.

    ``state`` holds latents in fp32; the pipeline receives them in its own dtype.

    Attributes:
        state: the current batch.
    """

    def __init__(self, scheduler: Any, state: DenoiseState, advance: Step, device: torch.device) -> None:
        super().__init__(scheduler)
        self._advance = advance
        self.state = state
        self.timesteps = state.table.timesteps.to(device)
        self.sigmas = state.table.sigmas.to(device)
        self.num_inference_steps = len(self.timesteps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        timesteps: Any = None,
        **_: Any,
    ) -> None:
        """Set the run's own schedule."""

    def step(self, model_output: Any, timestep: Any, sample: Any, *_: Any, **__: Any) -> tuple[Any]:
        """The next latents of every stream: a tensor or a tuple of tensors, as the pipeline expects."""
        outputs = model_output if isinstance(model_output, tuple) else (model_output,)
        velocity = {name: self.sign * v.float() for name, v in zip(self.state.x, outputs, strict=True)}
        self._advance(self.state, velocity)
        dtypes = [s.dtype for s in (sample if isinstance(sample, tuple) else (sample,))]
        following = tuple(x.to(dtype) for x, dtype in zip(self.state.x.values(), dtypes, strict=True))
        return (following if isinstance(model_output, tuple) else following[0],)
