"""HunyuanVideo."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLHunyuanVideo,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import CLIPTextModel

from omni_rl_tiny.pipelines.text_encoders import WIDTH, clip_config, llama
from omni_rl_tiny.pipelines.tokenizers import clip_tokenizer, llama_tokenizer

SIZES = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": WIDTH,
}
"""Of the transformers for videos and for images."""


def video_vae() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )


def hunyuan_video() -> DiffusionPipeline:
    """Video, true CFG beside a guidance embedding, a template that is cropped, masked text."""
    tokenizer, clip = llama_tokenizer(), clip_tokenizer()
    transformer = HunyuanVideoTransformer3DModel(**SIZES, pooled_projection_dim=WIDTH, rope_axes_dim=(4, 6, 6))
    return HunyuanVideoPipeline(
        text_encoder=llama(tokenizer, layers=4),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=video_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(clip_config(clip)),
        tokenizer_2=clip,
    )
