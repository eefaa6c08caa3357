"""Helios."""

from __future__ import annotations

from diffusers import DiffusionPipeline, HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel

from omni_rl_tiny.pipelines.autoencoders import wan_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, umt5_encoder
from omni_rl_tiny.pipelines.tokenizers import t5_tokenizer


def helios() -> DiffusionPipeline:
    """Video in chunks, each sampled after those before it."""
    tokenizer = t5_tokenizer()
    transformer = HeliosTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_dim=(4, 6, 6),
    )
    return HeliosPipeline(
        tokenizer=tokenizer,
        text_encoder=umt5_encoder(tokenizer),
        transformer=transformer,
        vae=wan_vae(),
        scheduler=HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True),
    )
