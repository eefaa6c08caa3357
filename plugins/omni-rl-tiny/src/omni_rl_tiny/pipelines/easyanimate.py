"""EasyAnimate."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLMagvit,
    DiffusionPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)

from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen2_vl
from omni_rl_tiny.pipelines.tokenizers import mistral_tokenizer


def easyanimate() -> DiffusionPipeline:
    """Video, batched CFG, text padded to a fixed length whose padding is read."""
    tokenizer = mistral_tokenizer()
    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_layers=2,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        add_norm_text_encoder=True,
        add_noise_in_inpaint_model=True,
    )
    vae = AutoencoderKLMagvit(latent_channels=4, block_out_channels=[8, 8, 8, 8], layers_per_block=1, norm_num_groups=4)
    return EasyAnimatePipeline(
        vae=vae,
        text_encoder=qwen2_vl(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
