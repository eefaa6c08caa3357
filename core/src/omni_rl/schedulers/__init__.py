"""SDE steps of flow-matching models: the transition's maths and the diffusers scheduler built on it.

The function ``omni_rl.schedulers.transition.transition`` is not re-exported: here its name would hide the module's.
"""

from __future__ import annotations

from omni_rl.schedulers.scheduler import FlowMatchSDEDiscreteScheduler, FlowMatchSDEDiscreteSchedulerOutput
from omni_rl.schedulers.transition import Transition, joint_kl, joint_log_prob

__all__ = [
    "FlowMatchSDEDiscreteScheduler",
    "FlowMatchSDEDiscreteSchedulerOutput",
    "Transition",
    "joint_kl",
    "joint_log_prob",
]
