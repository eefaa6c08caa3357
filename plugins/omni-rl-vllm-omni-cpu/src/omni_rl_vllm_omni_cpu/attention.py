"""Attention on the CPU: vLLM-Omni's SDPA backend has no branch for platforms of other packages."""

from __future__ import annotations

import torch
from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata
from vllm_omni.diffusion.attention.backends.sdpa import SDPABackend, SDPAImpl


class CpuAttention(SDPAImpl):
    """Uses the branch that calls only PyTorch."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_metadata: AttentionMetadata | None = None,
    ) -> torch.Tensor:
        """Attention (B, L, heads, D) of query, key and value (B, L, heads, D)."""
        return self.forward_cuda(query, key, value, attn_metadata)  # type: ignore[no-any-return]


class CpuAttentionBackend(SDPABackend):
    """The attention backend with :class:`CpuAttention`."""

    @staticmethod
    def get_impl_cls() -> type[CpuAttention]:
        """The implementation's class."""
        return CpuAttention
