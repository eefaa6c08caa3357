"""The engine ``vllm-omni``: rollout in vLLM-Omni's own processes, for every model, with core's transitions.

What runs where:

* driver (:mod:`engine`, :mod:`server`): encodes prompts once per group with the run's hooks, takes the schedule, sends
  both with each request, and streams weights after every update;
* worker (:mod:`rollout`, :mod:`scheduler`, :mod:`weights`, :mod:`adapters`): the upstream pipeline of the architecture,
  with core's ``step_scheduler`` in place of its scheduler's step.
"""

from omni_rl_vllm_omni.engine import VllmOmniEngine

__all__ = ["VllmOmniEngine"]
