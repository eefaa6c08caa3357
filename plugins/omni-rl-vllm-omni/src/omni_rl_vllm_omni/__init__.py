"""The engine ``vllm-omni``: rollout in the processes of vLLM-Omni, for every model, with core's transitions.

* driver (:mod:`engine`, :mod:`server`): encodes prompts once per group with the run's hooks, computes the schedule,
sends both with each request, and sends the weights after every iteration;
* worker (:mod:`rollout`, :mod:`scheduler`, :mod:`weights`, :mod:`adapters`): vLLM-Omni's pipeline of the architecture,
with core's ``step_scheduler`` instead of its scheduler's step.
"""

from omni_rl_vllm_omni.engine import VllmOmniEngine

__all__ = ["VllmOmniEngine"]
