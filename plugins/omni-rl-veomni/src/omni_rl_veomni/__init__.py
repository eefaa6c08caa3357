"""The backend ``veomni``: core's training loop with VeOmni's networks, sharding and clipping.

* :mod:`backend`: what core's backend leaves to another library;
* :mod:`networks`: VeOmni's networks with the weights of a loaded pipeline, called as its pipeline calls diffusers' own;
* :mod:`sharding`: VeOmni's parallel state, and its FSDP2 around weights that are in memory;
* :mod:`library`: imports VeOmni, which the other two need.
"""

from omni_rl_veomni.backend import VeOmniBackend

__all__ = ["VeOmniBackend"]
