"""Z-Image."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen3
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def _transformer(**changes: int) -> ZImageTransformer2DModel:
    return ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
        **changes,
    )


def z_image() -> DiffusionPipeline:
    """Lists instead of batches, inside and for the prompts' embeddings; time runs the other way, the sign is turned."""
    tokenizer, transformer = qwen_tokenizer(), _transformer()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def z_image_omni() -> DiffusionPipeline:
    """A text comes in parts, with room for images between them, and the sample in a list with these."""
    vision = Siglip2VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_patches=16, patch_size=16
    )
    return ZImageOmniPipeline(
        **{**z_image().components, "transformer": _transformer(siglip_feat_dim=16)},
        siglip=Siglip2VisionModel(vision),
        siglip_processor=Siglip2ImageProcessor(patch_size=16, max_num_patches=16),
    )
