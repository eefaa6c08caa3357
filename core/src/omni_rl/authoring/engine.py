"""For authors of rollout engines: model replicas, requests and weights for other processes, trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.model.adapters import make_trainable
    from omni_rl.model.encoding import encode_ahead, forget
    from omni_rl.model.loading import from_pipe
    from omni_rl.model.weights import ADAPTER_SIDES, Portion, load, packed, portions, unpacked
    from omni_rl.plugins.manager import Hooks
    from omni_rl.plugins.runspec import rebuild
    from omni_rl.run.launchers import pack, run_entry, unpack
    from omni_rl.sampling.batches import form
    from omni_rl.sampling.denoise import begin, recorded
    from omni_rl.sampling.remote.landing import Landing, Pipeline, locate
    from omni_rl.sampling.remote.prepared import Asked, Prepared, prepare
    from omni_rl.sampling.remote.stderr_tee import StderrTee
    from omni_rl.universal.scheduler_stand_ins import StandIn

_MODULES = {
    "omni_rl.model.adapters": ("make_trainable",),
    "omni_rl.model.encoding": (
        "encode_ahead",
        "forget",
    ),
    "omni_rl.model.loading": ("from_pipe",),
    "omni_rl.model.weights": (
        "ADAPTER_SIDES",
        "Portion",
        "load",
        "packed",
        "portions",
        "unpacked",
    ),
    "omni_rl.plugins.manager": ("Hooks",),
    "omni_rl.plugins.runspec": ("rebuild",),
    "omni_rl.run.launchers": (
        "pack",
        "run_entry",
        "unpack",
    ),
    "omni_rl.sampling.batches": ("form",),
    "omni_rl.sampling.denoise": (
        "begin",
        "recorded",
    ),
    "omni_rl.sampling.remote.landing": (
        "Landing",
        "Pipeline",
        "locate",
    ),
    "omni_rl.sampling.remote.prepared": (
        "Asked",
        "Prepared",
        "prepare",
    ),
    "omni_rl.sampling.remote.stderr_tee": ("StderrTee",),
    "omni_rl.universal.scheduler_stand_ins": ("StandIn",),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "ADAPTER_SIDES",
    "Asked",
    "Hooks",
    "Landing",
    "Pipeline",
    "Portion",
    "Prepared",
    "StandIn",
    "StderrTee",
    "begin",
    "encode_ahead",
    "forget",
    "form",
    "from_pipe",
    "load",
    "locate",
    "make_trainable",
    "pack",
    "packed",
    "portions",
    "prepare",
    "rebuild",
    "recorded",
    "run_entry",
    "unpack",
    "unpacked",
]
