"""For authors of rewards: where a reward's own model computes."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
