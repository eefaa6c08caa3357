"""omni-rl: RL post-training for diffusion and flow-matching models, as a plugin ecosystem.

Names for users and plugin authors; importing this package imports no torch.
"""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
