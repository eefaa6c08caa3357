"""Pipelines that start from an image or video with noise, and leave out the beginning of their schedule.

Core starts from noise alone, at the beginning of the schedule. Such a pipeline must be told to do so, or be refused.
"""

from __future__ import annotations

import torch

from omni_rl.contracts.model import LoadedModel
from omni_rl.errors import ModelError
from omni_rl.universal.capture import NEEDS_PLUGIN

_WHY = "it starts from an image or video with noise, and core from noise alone"


def refuse_late_start(model: LoadedModel, timesteps: torch.Tensor, first: float | None) -> None:
    """Refuse a pipeline that does not begin with the first timestep of its scheduler's table.

    Args:
        timesteps: (steps,) of the table.
        first: the timestep of the pipeline's first step; None if it takes no step.

    Raises:
        ModelError: the first step is at a later timestep of the table, or there is none.
    """
    if first is None:
        raise no_step(model, len(timesteps))
    if first != float(timesteps[0]) and first in timesteps[1:].tolist():
        begin = f"takes its first step at timestep {first:.4g} of a schedule that begins with {float(timesteps[0]):.4g}"
        raise ModelError(f"{model.architecture} {begin}: {_WHY}", _hint(model))


def no_step(model: LoadedModel, told: int) -> ModelError:
    """The error about a pipeline that takes no step at all when it is told to take ``told``."""
    what = f"{model.architecture} takes no step when num_inference_steps is {told}"
    return ModelError(f"{what}: {_WHY}" if model.takes("strength") else what, _hint(model))


def _hint(model: LoadedModel) -> str:
    if model.takes("strength"):
        return "set rollout.call.strength: 1.0, so that it starts from noise alone, or use a pipeline without strength"
    return NEEDS_PLUGIN
