"""Motif-Video."""

from __future__ import annotations

from diffusers import (
    ClassifierFreeGuidance,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)

from omni_rl_tiny.pipelines.autoencoders import wan_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, t5gemma2
from omni_rl_tiny.pipelines.tokenizers import gemma_tokenizer


def motif_video() -> DiffusionPipeline:
    """Video, guidance by a component of its own, masked text, room for a first frame."""
    tokenizer = gemma_tokenizer()
    transformer = MotifVideoTransformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=2,
        num_decoder_layers=1,
        text_embed_dim=WIDTH,
        rope_axes_dim=(4, 6, 6),
        enable_text_cross_attention_dual=True,
        enable_text_cross_attention_single=True,
    )
    return MotifVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=15.0),
        vae=wan_vae(),
        text_encoder=t5gemma2(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        guider=ClassifierFreeGuidance(guidance_scale=5.0),
    )
