"""Attention on the CPU: upstream's SDPA backend, which has a branch for every platform but an out-of-tree one."""

from __future__ import annotations

import torch
from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata
from vllm_omni.diffusion.attention.backends.sdpa import SDPABackend, SDPAImpl


class CpuAttention(SDPAImpl):
    """The branch that calls PyTorch alone."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_metadata: AttentionMetadata | None = None,
    ) -> torch.Tensor:
        """(B, L, heads, D) for query, key and value (B, L, heads, D)."""
        return self.forward_cuda(query, key, value, attn_metadata)  # type: ignore[no-any-return]


class CpuAttentionBackend(SDPABackend):
    """Names the implementation."""

    @staticmethod
    def get_impl_cls() -> type[CpuAttention]:
        """The implementation's class."""
        return CpuAttention
