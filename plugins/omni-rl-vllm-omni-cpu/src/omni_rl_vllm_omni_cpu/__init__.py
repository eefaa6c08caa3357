"""A CPU platform for vLLM-Omni, which ships none.

vLLM-Omni finds :func:`platform` through its own entry-point group and asks it in every process; an out-of-tree platform
goes before the built-in ones, so this one stands back wherever an accelerator is found.
"""

from __future__ import annotations

PLATFORM = "omni_rl_vllm_omni_cpu.cpu_platform.CpuOmniPlatform"


def platform() -> str | None:
    """The dotted name of the platform's class; None where vLLM-Omni has a platform of its own to run on."""
    from vllm_omni import platforms

    if any(find() is not None for find in platforms.builtin_omni_platform_plugins.values()):
        return None
    return PLATFORM
