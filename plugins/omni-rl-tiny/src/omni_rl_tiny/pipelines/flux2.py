"""FLUX.2 and FLUX.2 Klein."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLFlux2,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)

from omni_rl_tiny.pipelines.text_encoders import WIDTH, mistral3, qwen3_for_causal_lm
from omni_rl_tiny.pipelines.tokenizers import mistral_tokenizer, qwen_tokenizer


def _transformer(guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def flux2_vae() -> AutoencoderKLFlux2:
    return AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
    )


def flux2_klein() -> DiffusionPipeline:
    """CFG in two passes against the empty prompt, packed latents, layers of the text encoder side by side."""
    tokenizer = qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen3_for_causal_lm(tokenizer),
        tokenizer=tokenizer,
        transformer=_transformer(guidance_embeds=False),
    )


def flux2() -> DiffusionPipeline:
    """Guidance embedding, packed latents, layers of the text encoder side by side."""
    tokenizer = mistral_tokenizer()
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=mistral3(tokenizer),
        tokenizer=tokenizer,
        transformer=_transformer(guidance_embeds=True),
    )
