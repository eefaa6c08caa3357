"""Lumina-Image 2.0."""

from __future__ import annotations

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, gemma2
from omni_rl_tiny.pipelines.tokenizers import gemma_tokenizer


def lumina2() -> DiffusionPipeline:
    """CFG in two passes with norm preservation; time runs the other way, the sign is turned."""
    tokenizer = gemma_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=16,
        in_channels=4,
        hidden_size=WIDTH,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(128, 32, 32),
        cap_feat_dim=WIDTH,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae((4, 8, 8, 8)),  # the pipeline assumes eight pixels per latent
        text_encoder=gemma2(tokenizer),
        tokenizer=tokenizer,
    )
