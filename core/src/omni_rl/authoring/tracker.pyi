from omni_rl.reporting.health import reward_figures as reward_figures
from omni_rl.reporting.image_grids import grid as grid
from omni_rl.reporting.image_grids import still as still
