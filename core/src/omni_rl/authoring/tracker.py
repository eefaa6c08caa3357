"""For authors of trackers: statistics of rewards, and grids of images with captions."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
