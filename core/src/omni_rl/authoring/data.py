"""For authors of dataset formats: prompt rows, lines with their number, images and their checks, atomic writes."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
