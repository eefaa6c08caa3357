"""A CPU platform for vLLM-Omni, which has none itself.

vLLM-Omni finds :func:`platform` through its own entry-point group and calls it in every process. It prefers platforms
of other packages to its own, so :func:`platform` returns None if there is an accelerator.
"""

from __future__ import annotations

PLATFORM = "omni_rl_vllm_omni_cpu.cpu_platform.CpuOmniPlatform"


def platform() -> str | None:
    """The dotted name of the platform's class; None if vLLM-Omni can use a platform of its own."""
    from vllm_omni import platforms

    if any(find() is not None for find in platforms.builtin_omni_platform_plugins.values()):
        return None
    return PLATFORM
