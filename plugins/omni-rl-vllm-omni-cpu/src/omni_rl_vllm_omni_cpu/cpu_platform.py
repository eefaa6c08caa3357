"""vLLM's CPU platform with the answers that vLLM-Omni's diffusion worker asks for."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from vllm.distributed.device_communicators import shm_broadcast
from vllm.model_executor.layers.linear import LinearBase
from vllm.platforms.cpu import CpuPlatform
from vllm_omni.platforms.interface import OmniPlatform, OmniPlatformEnum

# For a second after every message upstream's readers spin, in the driver as in the worker. An accelerator's host can
# afford that; here they would take the cores away from the model. (Without that second messages get lost: the sockets
# that readers wait on afterwards drop a notice that follows another one closely.)
shm_broadcast.sched_yield = lambda: time.sleep(PAUSE_S)

PAUSE_S = 5e-4

ATTENTION = "omni_rl_vllm_omni_cpu.attention.CpuAttentionBackend"


class CpuOmniPlatform(OmniPlatform, CpuPlatform):
    """One CPU as one device; its memory is the machine's."""

    _omni_enum = OmniPlatformEnum.OOT

    @classmethod
    def is_available(cls) -> bool:
        """No accelerator: upstream asks before it touches device streams and allocators."""
        return False

    @classmethod
    def get_torch_device(cls, local_rank: int | None = None) -> torch.device:
        """The CPU, whatever the rank."""
        return torch.device("cpu")

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        """There is nothing to choose."""

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
        """There is no cache."""

    @classmethod
    def get_free_memory(cls, device: torch.device | None = None) -> int:
        """Bytes that the machine has to spare."""
        return int(psutil.virtual_memory().available)

    @classmethod
    def get_device_memory(cls, device: torch.device | None = None) -> tuple[int, int]:
        """(free, total) bytes of the machine."""
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Bytes of the machine."""
        return int(psutil.virtual_memory().total)

    @classmethod
    def max_memory_reserved(cls, *_: Any) -> int:
        """Not counted."""
        return 0

    max_memory_allocated = max_memory_reserved

    @classmethod
    def reset_peak_memory_stats(cls, *_: Any) -> None:
        """Nothing is counted."""

    @classmethod
    def init_diffusion_model_runner_runtime(cls, vllm_config: Any, od_config: Any, device: torch.device) -> None:
        """Keep linear weights as they are loaded: vLLM would pack them for its own kernels and drop the originals, and
        packed weights can be neither replaced after an update nor read back. And let results out of this process.
        """
        from omni_rl_vllm_omni_cpu.results import without_streams  # upstream's worker, which asks for this platform

        LinearBase.skip_weight_relayout = True
        without_streams()

    @classmethod
    def supports_torch_inductor(cls) -> bool:
        """Eager: models that fit a CPU are too small to be worth compiling."""
        return False

    @classmethod
    def get_default_stage_config_path(cls) -> str:
        """Upstream's own stage files."""
        return "vllm_omni/deploy"

    @classmethod
    def get_diffusion_attn_backend_cls(
        cls, selected_backend: str | None, head_size: int, allow_trtllm_default: bool = False
    ) -> str:
        """PyTorch's scaled dot product attention; no other backend runs here.

        Raises:
            ValueError: another one was selected.
        """
        if selected_backend not in (None, "TORCH_SDPA"):
            raise ValueError(f"the CPU has the attention backend TORCH_SDPA only, not {selected_backend}")
        return ATTENTION
