"""CogView4."""

from __future__ import annotations

from diffusers import CogView4Pipeline, CogView4Transformer2DModel, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, glm
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def cogview4() -> DiffusionPipeline:
    """CFG in two passes, text as wide as the longest prompt without a mask, timesteps beside sigmas."""
    tokenizer = qwen_tokenizer()
    tokenizer.padding_side = "left"
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=8,
        rope_axes_dim=(16, 16),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return CogView4Pipeline(
        tokenizer=tokenizer, text_encoder=glm(tokenizer), vae=image_vae(), transformer=transformer, scheduler=scheduler
    )
