"""For authors of model plugins: guidance, sizes, prompts, and what the universal adapter works out."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
