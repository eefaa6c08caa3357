"""vLLM's CPU platform, with the methods that vLLM-Omni's diffusion worker calls."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from vllm.distributed.device_communicators import shm_broadcast
from vllm.model_executor.layers.linear import LinearBase
from vllm.platforms.cpu import CpuPlatform
from vllm_omni.platforms.interface import OmniPlatform, OmniPlatformEnum

# After every message, vLLM-Omni's readers in driver and worker poll for one second. On a machine with an accelerator
# this is cheap; here it would take CPU cores from the model. (Without the polling, messages get lost: the sockets on
# which the readers wait afterwards drop a notice that follows another one closely.)
shm_broadcast.sched_yield = lambda: time.sleep(PAUSE_S)

PAUSE_S = 5e-4

ATTENTION = "omni_rl_vllm_omni_cpu.attention.CpuAttentionBackend"


class CpuOmniPlatform(OmniPlatform, CpuPlatform):
    """One CPU as one device; its memory is the machine's memory."""

    _omni_enum = OmniPlatformEnum.OOT

    @classmethod
    def is_available(cls) -> bool:
        """There is no accelerator; vLLM-Omni calls this before it uses device streams and allocators."""
        return False

    @classmethod
    def get_torch_device(cls, local_rank: int | None = None) -> torch.device:
        """The CPU, for every rank."""
        return torch.device("cpu")

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        """Does nothing: there is only one device."""

    @classmethod
    def get_device_count(cls) -> int:
        """One."""
        return 1

    device_count = get_device_count

    @classmethod
    def get_device_version(cls) -> str | None:
        """None."""
        return None

    @classmethod
    def synchronize(cls) -> None:
        """Computation on the CPU is complete when it returns."""

    @classmethod
    def empty_cache(cls) -> None:
        """Does nothing: there is no cache."""

    @classmethod
    def get_free_memory(cls, device: torch.device | None = None) -> int:
        """Free memory of the machine, in bytes."""
        return int(psutil.virtual_memory().available)

    @classmethod
    def get_device_memory(cls, device: torch.device | None = None) -> tuple[int, int]:
        """(free, total) memory of the machine, in bytes."""
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Memory of the machine, in bytes."""
        return int(psutil.virtual_memory().total)

    @classmethod
    def max_memory_reserved(cls, *_: Any) -> int:
        """Always 0: memory is not counted."""
        return 0

    max_memory_allocated = max_memory_reserved

    @classmethod
    def reset_peak_memory_stats(cls, *_: Any) -> None:
        """Does nothing: memory is not counted."""

    @classmethod
    def init_diffusion_model_runner_runtime(cls, vllm_config: Any, od_config: Any, device: torch.device) -> None:
        """Keep linear weights unpacked: vLLM would pack them for its own kernels and delete the originals, and packed
        weights can neither be replaced by a sync nor read back. Also make results leave this process without streams.
        """
        from omni_rl_vllm_omni_cpu.results import without_streams  # upstream's worker, which asks for this platform

        LinearBase.skip_weight_relayout = True
        without_streams()

    @classmethod
    def supports_torch_inductor(cls) -> bool:
        """False: models that fit on a CPU are too small for compilation to pay off."""
        return False

    @classmethod
    def get_default_stage_config_path(cls) -> str:
        """vLLM-Omni's own stage files."""
        return "vllm_omni/deploy"

    @classmethod
    def get_diffusion_attn_backend_cls(
        cls, selected_backend: str | None, head_size: int, allow_trtllm_default: bool = False
    ) -> str:
        """PyTorch's scaled dot product attention, the only backend for the CPU.

        Raises:
            ValueError: another backend was selected.
        """
        if selected_backend not in (None, "TORCH_SDPA"):
            raise ValueError(f"the CPU has the attention backend TORCH_SDPA only, not {selected_backend}")
        return ATTENTION
