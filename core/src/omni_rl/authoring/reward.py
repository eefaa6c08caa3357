"""For authors of rewards: the device for a reward's own model."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
