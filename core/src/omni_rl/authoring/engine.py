"""For authors of rollout engines: replicas, requests and weights for another process, recording."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
