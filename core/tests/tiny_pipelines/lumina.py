"""Lumina-Next."""

from __future__ import annotations

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel, LuminaPipeline
from tiny_tokenizers import gemma_tokenizer

from tiny_pipelines.autoencoders import image_vae
from tiny_pipelines.text_encoders import WIDTH, gemma


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
        vae=image_vae(),
        text_encoder=gemma(tokenizer),
        tokenizer=tokenizer,
    )
