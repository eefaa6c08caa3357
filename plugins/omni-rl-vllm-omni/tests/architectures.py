"""Writes ../ARCHITECTURES.md: what the engine does with every pipeline of the installed vLLM-Omni and diffusers.

python plugins/omni-rl-vllm-omni/tests/architectures.py
"""

from __future__ import annotations

import inspect
from importlib import metadata
from pathlib import Path

import diffusers
from vllm_omni.diffusion.registry import _DIFFUSION_MODELS

from omni_rl.errors import ConfigError
from omni_rl_vllm_omni.modes import Mode, mode_of
from omni_rl_vllm_omni.options import VllmOmniConfig

FILE = Path(__file__).parents[1] / "ARCHITECTURES.md"

COMPARED = {
    "QwenImagePipeline": "stepwise, whole requests",
    "StableDiffusion3Pipeline": "whole requests",
    "FluxPipeline": "whole requests",
    "WanPipeline": "whole requests",
    "SanaPipeline": "whole requests",
}
"""Held to the embedded engine by test_parity.py, and how."""

HEAD = """# What the engine does with each architecture

Written by `tests/architectures.py` from vLLM-Omni {vllm_omni} and diffusers {diffusers}; a test keeps it true.
*Stepwise* pipelines are batched step by step; the others draw whole requests, in batches where upstream's class takes
them. Where vLLM-Omni has no pipeline, diffusers' own runs in its processes (loaded by its adapter) and is asked for
velocities as the embedded engine asks. What has been compared with the embedded engine, sample by sample, is said in
the last column; for the rest the gate decides at the start of a run.

| architecture | how | compared |
|---|---|---|
"""


def flow_matching() -> set[str]:
    """diffusers' pipelines whose scheduler is a flow-matching one, and Sana's, whose solver is set to be."""
    pipelines = {n: getattr(diffusers, n) for n in dir(diffusers) if n.endswith("Pipeline")}
    return {n for n, cls in pipelines.items() if "FlowMatch" in str(_scheduler(cls)) or n == "SanaPipeline"}


def _scheduler(cls: type) -> object:
    parameter = inspect.signature(cls.__init__).parameters.get("scheduler")
    return parameter.annotation if parameter else None


def how(architecture: str) -> str:
    """The engine's mode in words."""
    try:
        mode = mode_of(architecture, VllmOmniConfig())
    except ConfigError as error:
        known = (
            "its class cannot be imported beside the other packages here" if architecture in _DIFFUSION_MODELS else ""
        )
        return f"unsupported: {known or error.what}"
    return _in_words(mode)


def _in_words(mode: Mode) -> str:
    if mode.step:
        return "stepwise"
    if not mode.native:
        return "whole requests, diffusers' own pipeline"
    return "whole requests" if mode.together > 1 else "whole requests, one at a time"


def page() -> str:
    """The whole file."""
    names = sorted((flow_matching() | set(_DIFFUSION_MODELS)) - {"DiffusersAdapterPipeline"}, key=str.lower)
    rows = [f"| `{name}` | {how(name)} | {COMPARED.get(name, '')} |" for name in names]
    versions = {"vllm_omni": metadata.version("vllm-omni"), "diffusers": metadata.version("diffusers")}
    return HEAD.format(**versions) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    FILE.write_text(page())
