"""HunyuanImage 2.1."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLHunyuanImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)
from diffusers.guiders import AdaptiveProjectedMixGuidance
from transformers import ByT5Tokenizer

from omni_rl_tiny.pipelines.hunyuan_video import SIZES
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen_vl, t5_encoder
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def hunyuan_image() -> DiffusionPipeline:
    """Guidance by a component of its own, two text encoders of which one reads what stands in quotation marks."""
    tokenizer, bytes_tokenizer = qwen_tokenizer(), ByT5Tokenizer()
    transformer = HunyuanImageTransformer2DModel(**SIZES, text_embed_2_dim=WIDTH, rope_axes_dim=(8, 8))
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.75,
    )
    return HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=vae,
        text_encoder=qwen_vl(tokenizer, layers=3),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(bytes_tokenizer),
        tokenizer_2=bytes_tokenizer,
        transformer=transformer,
        guider=AdaptiveProjectedMixGuidance(
            guidance_scale=3.5,
            adaptive_projected_guidance_scale=3.5,
            adaptive_projected_guidance_momentum=-0.5,
            adaptive_projected_guidance_start_step=0,
        ),
    )
