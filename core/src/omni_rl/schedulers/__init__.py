"""SDE steps of flow-matching models: the transition, the diffusers scheduler, and random draws by key.

The function ``omni_rl.schedulers.transition.transition`` is not exported here, because it has the name of its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.schedulers.randomness import draw_seed, randn, randn_rows, seed_of
    from omni_rl.schedulers.scheduler import FlowMatchSDEDiscreteScheduler, FlowMatchSDEDiscreteSchedulerOutput
    from omni_rl.schedulers.transition import Transition, joint_kl, joint_log_prob
    from omni_rl.schedulers.types import LogProbType, NoiseKey, SdeType

_MODULES = {
    "omni_rl.schedulers.randomness": ("draw_seed", "randn", "randn_rows", "seed_of"),
    "omni_rl.schedulers.scheduler": ("FlowMatchSDEDiscreteScheduler", "FlowMatchSDEDiscreteSchedulerOutput"),
    "omni_rl.schedulers.transition": ("Transition", "joint_kl", "joint_log_prob"),
    "omni_rl.schedulers.types": ("LogProbType", "NoiseKey", "SdeType"),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "FlowMatchSDEDiscreteScheduler",
    "FlowMatchSDEDiscreteSchedulerOutput",
    "LogProbType",
    "NoiseKey",
    "SdeType",
    "Transition",
    "draw_seed",
    "joint_kl",
    "joint_log_prob",
    "randn",
    "randn_rows",
    "seed_of",
]
