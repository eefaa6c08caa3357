"""ERNIE-Image."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)

from omni_rl_tiny.pipelines.flux2 import flux2_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, mistral3
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def ernie_image() -> DiffusionPipeline:
    """Batched CFG over lists of embeddings that bear no argument's name; the scheduler's answer is an object."""
    tokenizer = qwen_tokenizer()
    transformer = ErnieImageTransformer2DModel(
        hidden_size=WIDTH,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=WIDTH,
        in_channels=16,
        out_channels=16,
        text_in_dim=WIDTH,
        rope_axes_dim=(4, 6, 6),
    )
    return ErnieImagePipeline(
        transformer=transformer,
        vae=flux2_vae(),
        text_encoder=mistral3(tokenizer).model,
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
