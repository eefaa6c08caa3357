"""For authors of rollout engines: model replicas, requests and weights for other processes, trajectories."""

from omni_rl._lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
