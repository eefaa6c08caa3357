"""What a run shows for itself: curves, pictures before and after with equal noise, and figures of health."""

from omni_rl.reporting.curves import stderr_name
from omni_rl.reporting.health import health, reward_figures
from omni_rl.reporting.page import write_curves, write_report
from omni_rl.reporting.pictures import before_after, grid, still, strip

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
