"""For authors of rollout engines: what an engine is built from, requests and weights for another process, recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.model.encoding import encode_ahead, forget
    from omni_rl.model.loading import from_pipe
    from omni_rl.model.weights import (
        ADAPTER_SIDES,
        adapter_names,
        adapters,
        covers,
        packed,
        portions,
        trained,
        unpacked,
    )
    from omni_rl.plugins.context import ENGINE_HOOKS, Context
    from omni_rl.plugins.manager import Hooks
    from omni_rl.plugins.runspec import RunSpec
    from omni_rl.sampling.batches import form
    from omni_rl.sampling.denoise import begin, recorded
    from omni_rl.sampling.remote.landing import Landing, Pipeline, locate
    from omni_rl.sampling.remote.prepared import Asked, Prepared, prepare
    from omni_rl.sampling.remote.stderr_tee import Overheard
    from omni_rl.universal.scheduler_stand_ins import StandIn

_MODULES = {
    "omni_rl.model.encoding": ("encode_ahead", "forget"),
    "omni_rl.model.loading": ("from_pipe",),
    "omni_rl.model.weights": (
        "ADAPTER_SIDES",
        "adapter_names",
        "adapters",
        "covers",
        "packed",
        "portions",
        "trained",
        "unpacked",
    ),
    "omni_rl.plugins.context": ("ENGINE_HOOKS", "Context"),
    "omni_rl.plugins.manager": ("Hooks",),
    "omni_rl.plugins.runspec": ("RunSpec",),
    "omni_rl.sampling.batches": ("form",),
    "omni_rl.sampling.denoise": ("begin", "recorded"),
    "omni_rl.sampling.remote.landing": ("Landing", "Pipeline", "locate"),
    "omni_rl.sampling.remote.prepared": ("Asked", "Prepared", "prepare"),
    "omni_rl.sampling.remote.stderr_tee": ("Overheard",),
    "omni_rl.universal.scheduler_stand_ins": ("StandIn",),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "ADAPTER_SIDES",
    "ENGINE_HOOKS",
    "Asked",
    "Context",
    "Hooks",
    "Landing",
    "Overheard",
    "Pipeline",
    "Prepared",
    "RunSpec",
    "StandIn",
    "adapter_names",
    "adapters",
    "begin",
    "covers",
    "encode_ahead",
    "forget",
    "form",
    "from_pipe",
    "locate",
    "packed",
    "portions",
    "prepare",
    "recorded",
    "trained",
    "unpacked",
]
