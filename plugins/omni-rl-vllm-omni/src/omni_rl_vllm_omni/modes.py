"""How the pipeline of an architecture can run: step by step or by whole requests, in batches or one by one."""

from __future__ import annotations

from dataclasses import dataclass

import diffusers

from omni_rl.errors import ConfigError, PluginError
from omni_rl_vllm_omni.options import VllmOmniConfig

PHASES = ("prepare_encode", "denoise_step", "step_scheduler", "post_decode")


@dataclass(frozen=True)
class Mode:
    """The mode of the engine, and notices for the user.

    Attributes:
        step: continuous batching. together: maximum number of concurrent samples. native: vLLM-Omni has its own
            pipeline.
    """

    step: bool
    together: int
    notices: tuple[str, ...] = ()
    native: bool = True


def mode_of(architecture: str, options: VllmOmniConfig) -> Mode:
    """The mode of the options, as far as vLLM-Omni's pipeline allows it.

    Raises:
        PluginError: vLLM-Omni is not installed.
        ConfigError: neither vLLM-Omni nor diffusers has the pipeline, or step execution is ``required`` but not
            possible.
    """
    try:
        from vllm_omni.diffusion.registry import DiffusionModelRegistry
    except ImportError as error:
        what = f"rollout.engine: vllm-omni needs vLLM-Omni, which cannot be imported: {error}"
        raise PluginError(what, "pip install vllm vllm-omni (on a CPU: see omni-rl-vllm-omni-cpu)") from error
    upstream = DiffusionModelRegistry._try_load_model_cls(architecture)
    if upstream is None and not hasattr(diffusers, architecture):
        what = f"neither vLLM-Omni nor diffusers has a pipeline {architecture}"
        raise ConfigError(what, "set rollout.engine to diffusers")
    steps = all(hasattr(upstream, phase) for phase in PHASES)
    if options.step_execution == "required" and not steps:
        what = f"rollout.step_execution: required, but vLLM-Omni's {architecture} cannot run step by step"
        raise ConfigError(what, "set it to auto, which uses whole requests in batches")
    if steps and options.step_execution != "off":
        return Mode(True, options.max_num_seqs)
    if upstream is None:
        return Mode(
            False, options.max_num_seqs, (f"vLLM-Omni has no {architecture}: it runs diffusers' own pipeline",), False
        )
    notices = [] if options.step_execution == "off" else [f"{architecture} cannot run step by step"]
    together = options.max_num_seqs if steps or getattr(upstream, "supports_request_batch", False) else 1
    if together < options.max_num_seqs:
        notices.append(f"{architecture} takes one request at a time")
    return Mode(False, together, tuple(notices))
