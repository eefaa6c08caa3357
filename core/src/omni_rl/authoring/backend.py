"""For authors of training backends: the class to derive from, and tensors of which each rank holds a part."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
