"""Lumina-Next."""

from __future__ import annotations

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel, LuminaPipeline

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, gemma
from omni_rl_tiny.pipelines.tokenizers import gemma_tokenizer


def lumina() -> DiffusionPipeline:
    """Batched CFG on three channels only, half of the prediction is dropped; time runs the other way."""
    tokenizer = gemma_tokenizer()
    transformer = LuminaNextDiT2DModel(
        sample_size=16,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    return LuminaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=image_vae((4, 8, 8, 8)),  # the pipeline assumes eight pixels per latent
        text_encoder=gemma(tokenizer),
        tokenizer=tokenizer,
    )
