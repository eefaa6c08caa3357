"""LongCat-Image."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
)

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen_vl
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def longcat_image() -> DiffusionPipeline:
    """CFG in two passes with norm preservation, packed latents, embeddings that a call cannot take back."""
    tokenizer = qwen_tokenizer()
    transformer = LongCatImageTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
    )
    return LongCatImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=image_vae(),
        text_encoder=qwen_vl(tokenizer),
        tokenizer=tokenizer,
        text_processor=tokenizer,
        transformer=transformer,
    )
