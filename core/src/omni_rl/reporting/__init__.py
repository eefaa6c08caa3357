"""Reports on a run: curves, images from equal noise before and after training, and health figures."""

from omni_rl.reporting.curves import stderr_name
from omni_rl.reporting.health import health, reward_figures
from omni_rl.reporting.image_grids import before_after, grid, still, strip
from omni_rl.reporting.page import write_curves, write_report

__all__ = [
    "before_after",
    "grid",
    "health",
    "reward_figures",
    "stderr_name",
    "still",
    "strip",
    "write_curves",
    "write_report",
]
