"""Qwen-Image 2.1."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLQwenImage21,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)

from omni_rl_tiny.pipelines.autoencoders import LATENTS_MEAN, LATENTS_STD
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen3_vl_for_generation
from omni_rl_tiny.pipelines.tokenizers import qwen3_vl_processor


def _vae() -> AutoencoderKLQwenImage21:
    """Images with an opacity, as videos of one frame, at a sixteenth of their size."""
    return AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=LATENTS_MEAN,
        latents_std=LATENTS_STD,
    )


def qwen_image21() -> DiffusionPipeline:
    """True CFG; one sequence in which the image sees the text and not the other way round, with its keys kept."""
    processor = qwen3_vl_processor()
    transformer = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        mlp_ratio=2,
        axes_dims_rope=(4, 6, 6),
    )
    return QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=qwen3_vl_for_generation(processor.tokenizer),
        processor=processor,
        transformer=transformer,
    )
