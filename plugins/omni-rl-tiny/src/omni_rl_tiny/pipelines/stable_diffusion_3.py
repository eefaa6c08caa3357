"""Stable Diffusion 3."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, clip_config, t5_encoder
from omni_rl_tiny.pipelines.tokenizers import clip_tokenizer, t5_tokenizer


def stable_diffusion_3() -> DiffusionPipeline:
    """Batched CFG, two CLIP encoders and a T5, shift 3."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=image_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=CLIPTextModelWithProjection(clip_config(clip)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(clip)),
        text_encoder_3=t5_encoder(t5, 2 * WIDTH),
        tokenizer=clip,
        tokenizer_2=clip,
        tokenizer_3=t5,
    )


def _parts(pipe: DiffusionPipeline) -> dict[str, object]:
    return {name: part for name, part in pipe.components.items() if name not in ("image_encoder", "feature_extractor")}


def stable_diffusion_3_pag() -> DiffusionPipeline:
    """The same with perturbed attention: another attention processor for the length of a call."""
    return StableDiffusion3PAGPipeline(**_parts(stable_diffusion_3()), pag_applied_layers=["blocks.1"])
