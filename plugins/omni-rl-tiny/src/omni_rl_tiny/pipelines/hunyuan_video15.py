"""HunyuanVideo 1.5."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from transformers import ByT5Tokenizer

from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen_vl, t5_encoder
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def hunyuan_video15() -> DiffusionPipeline:
    """Video, guidance by a component of its own, text and (absent) image tokens in fixed, large numbers."""
    tokenizer, bytes_tokenizer = qwen_tokenizer(), ByT5Tokenizer()
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=16,
        rope_axes_dim=(4, 6, 6),
        task_type="t2v",
    )
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    return HunyuanVideo15Pipeline(
        text_encoder=qwen_vl(tokenizer, layers=4).model.language_model,
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=t5_encoder(bytes_tokenizer),
        tokenizer_2=bytes_tokenizer,
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
