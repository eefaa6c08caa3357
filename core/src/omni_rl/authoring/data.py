"""For authors of dataset formats: rows of prompts, lines with the number that errors name, images, atomic files."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
