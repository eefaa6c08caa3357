"""The schedule of a request, as the model's hooks give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import SigmaTable, Tensors
from omni_rl.errors import ModelError


def tables_of(
    model: LoadedModel, hooks: Any, request: Request, shapes: Mapping[str, Sequence[int]], conditioning: Tensors
) -> Mapping[str, SigmaTable]:
    """The tables by stream.

    Raises:
        ModelError: a table is not finite; some schedulers divide by the number of steps minus one.
    """
    tables: Mapping[str, SigmaTable] = hooks.set_timesteps(
        model=model, steps=request.steps, shapes=shapes, conditioning=conditioning, call=request.call
    )
    for table in tables.values():
        if not (table.timesteps.isfinite().all() and table.sigmas.isfinite().all()):
            scheduler = type(model.pipe.scheduler).__name__
            what = f"the schedule of {scheduler} for {request.steps} steps is not finite: {table.sigmas.tolist()}"
            raise ModelError(what, "set more steps: rollout.steps, validation.steps")
    return tables
