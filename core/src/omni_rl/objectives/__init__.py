"""Building blocks of RL objectives: advantages, windows, policy gradients, forward process, divergences.

The function ``omni_rl.objectives.divergence.divergence`` is not re-exported: here its name would hide the module's.
"""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
