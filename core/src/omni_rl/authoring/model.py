"""For authors of model plugins: guidance, sizes, prompt limits, and functions of the universal adapter."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
