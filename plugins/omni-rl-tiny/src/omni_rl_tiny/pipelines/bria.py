"""Bria 3.2."""

from __future__ import annotations

from diffusers import BriaPipeline, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.models.transformers.transformer_bria import BriaTransformer2DModel

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, t5_encoder
from omni_rl_tiny.pipelines.tokenizers import t5_tokenizer


def bria() -> DiffusionPipeline:
    """Batched CFG, packed latents, text without a mask."""
    tokenizer = t5_tokenizer()
    transformer = BriaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
    )
    return BriaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=image_vae(),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
    )
