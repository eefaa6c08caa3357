"""Files that survive a crash: atomic writes, checkpoints, the run directory."""
