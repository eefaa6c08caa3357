"""Nucleus-Image."""

from __future__ import annotations

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
)

from omni_rl_tiny.pipelines.autoencoders import qwen_image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen3_vl_for_generation
from omni_rl_tiny.pipelines.tokenizers import qwen3_vl_processor


def _transformer() -> NucleusMoEImageTransformer2DModel:
    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        dense_moe_strategy="leave_first_block_dense",
        num_experts=4,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
    )
    for name, parameter in transformer.named_parameters():
        if ".experts." in name:
            torch.nn.init.normal_(parameter, std=0.1)  # diffusers leaves these as memory happens to be
    return transformer


def nucleus_moe_image() -> DiffusionPipeline:
    """Experts choose their tokens, guidance keeps the norm of a token, and the velocity has the opposite sign."""
    processor = qwen3_vl_processor()
    return NucleusMoEImagePipeline(
        transformer=_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=qwen_image_vae(),
        text_encoder=qwen3_vl_for_generation(processor.tokenizer, layers=3),
        processor=processor,
    )
