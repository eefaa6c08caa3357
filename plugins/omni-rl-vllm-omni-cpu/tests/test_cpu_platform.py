"""vLLM-Omni takes this platform where it has none of its own, and computes on it."""

from __future__ import annotations

import pytest
import torch
from vllm_omni import platforms

import omni_rl_vllm_omni_cpu
from omni_rl_vllm_omni_cpu.attention import CpuAttention, CpuAttentionBackend
from omni_rl_vllm_omni_cpu.cpu_platform import CpuOmniPlatform


def test_it_is_the_platform_of_a_machine_without_an_accelerator():
    if torch.cuda.is_available():
        pytest.skip("this machine has an accelerator")
    assert isinstance(platforms.current_omni_platform, CpuOmniPlatform)


def test_it_stands_back_where_there_is_an_accelerator(monkeypatch):
    monkeypatch.setitem(platforms.builtin_omni_platform_plugins, "cuda", lambda: "some.Platform")
    assert omni_rl_vllm_omni_cpu.platform() is None


def test_attention_is_softmax_of_the_products():
    """In float64, with a mask of keys; heads stand third in vLLM-Omni's layout."""
    query, key, value = (torch.randn(2, n, 3, 8, dtype=torch.float64) for n in (5, 7, 7))
    attention = CpuAttentionBackend.get_impl_cls()(num_heads=3, head_size=8, softmax_scale=0.3)
    assert isinstance(attention, CpuAttention)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * 0.3
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)
    torch.testing.assert_close(attention.forward(query, key, value), expected)


def test_memory_is_the_machines():
    free, total = CpuOmniPlatform.get_device_memory()
    assert 0 < free <= total == CpuOmniPlatform.get_device_total_memory()


def test_another_attention_backend_is_refused():
    with pytest.raises(ValueError, match="TORCH_SDPA only, not FLASH_ATTN"):
        CpuOmniPlatform.get_diffusion_attn_backend_cls("FLASH_ATTN", 64)
