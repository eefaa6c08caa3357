"""Building blocks of RL objectives: advantages, windows, policy gradients, forward process, divergences.

The function ``omni_rl.objectives.divergence.divergence`` is not re-exported: here its name would hide the module's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.objectives.advantages import (
        AdvantageOptions,
        Combination,
        GroupRelative,
        StdScope,
        gdpo_advantages,
        group_advantages,
    )
    from omni_rl.objectives.divergence import Divergence
    from omni_rl.objectives.forward_process import (
        ForwardOptions,
        ForwardProcess,
        Levels,
        Noised,
        along,
        noised_at,
        timesteps_at,
    )
    from omni_rl.objectives.policy_gradient import ClippedOptions, PolicyGradient, PolicyGradientOptions, Step, clipped
    from omni_rl.objectives.rollout_correction import Correction, OldLogProbs, corrected
    from omni_rl.objectives.windows import RandomlyPlaced, RandomWindow, WindowOptions

_MODULES = {
    "omni_rl.objectives.advantages": (
        "AdvantageOptions",
        "Combination",
        "GroupRelative",
        "StdScope",
        "gdpo_advantages",
        "group_advantages",
    ),
    "omni_rl.objectives.divergence": ("Divergence",),
    "omni_rl.objectives.forward_process": (
        "ForwardOptions",
        "ForwardProcess",
        "Levels",
        "Noised",
        "along",
        "noised_at",
        "timesteps_at",
    ),
    "omni_rl.objectives.policy_gradient": (
        "ClippedOptions",
        "PolicyGradient",
        "PolicyGradientOptions",
        "Step",
        "clipped",
    ),
    "omni_rl.objectives.rollout_correction": ("Correction", "OldLogProbs", "corrected"),
    "omni_rl.objectives.windows": ("RandomWindow", "RandomlyPlaced", "WindowOptions"),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "AdvantageOptions",
    "ClippedOptions",
    "Combination",
    "Correction",
    "Divergence",
    "ForwardOptions",
    "ForwardProcess",
    "GroupRelative",
    "Levels",
    "Noised",
    "OldLogProbs",
    "PolicyGradient",
    "PolicyGradientOptions",
    "RandomWindow",
    "RandomlyPlaced",
    "StdScope",
    "Step",
    "WindowOptions",
    "along",
    "clipped",
    "corrected",
    "gdpo_advantages",
    "group_advantages",
    "noised_at",
    "timesteps_at",
]
