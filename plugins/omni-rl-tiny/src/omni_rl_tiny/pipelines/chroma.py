"""Chroma."""

from __future__ import annotations

from diffusers import ChromaPipeline, ChromaTransformer2DModel, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, t5_encoder
from omni_rl_tiny.pipelines.tokenizers import t5_tokenizer


def chroma() -> DiffusionPipeline:
    """A network that predicts all modulations, attention masks over text and image, packed latents."""
    tokenizer = t5_tokenizer()
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=image_vae(),
        text_encoder=t5_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )
