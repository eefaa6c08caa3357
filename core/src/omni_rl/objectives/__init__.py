"""Building blocks of RL objectives: advantages, windows, policy gradients, forward process, divergences."""
