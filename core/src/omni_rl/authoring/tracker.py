"""For authors of trackers: statistics of rewards, and grids of images with captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.reporting.health import reward_figures
    from omni_rl.reporting.image_grids import grid, still

_MODULES = {
    "omni_rl.reporting.health": ("reward_figures",),
    "omni_rl.reporting.image_grids": ("grid", "still"),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "grid",
    "reward_figures",
    "still",
]
