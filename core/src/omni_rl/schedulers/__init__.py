"""SDE steps of flow-matching models: the transition, the diffusers scheduler, and random draws by key.

The function ``omni_rl.schedulers.transition.transition`` is not exported here, because it has the name of its module.
"""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
