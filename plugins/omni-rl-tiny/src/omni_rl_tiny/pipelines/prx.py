"""PRX."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen3, t5gemma
from omni_rl_tiny.pipelines.tokenizers import gemma_tokenizer, qwen_tokenizer


def _transformer(in_channels: int, **sizes: int) -> PRXTransformer2DModel:
    return PRXTransformer2DModel(
        in_channels=in_channels,
        context_in_dim=WIDTH,
        hidden_size=WIDTH,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[8, 8],
        **sizes,
    )


def prx() -> DiffusionPipeline:
    """Batched CFG over masked text, embeddings under other names inside the pipeline than in its arguments."""
    tokenizer = gemma_tokenizer()
    tokenizer.model_max_length = 48
    return PRXPipeline(
        transformer=_transformer(in_channels=4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=t5gemma(tokenizer),
        tokenizer=tokenizer,
        vae=image_vae(),
        default_sample_size=16,
    )


def prx_pixel() -> DiffusionPipeline:
    """Pixels instead of latents, which start from noise of deviation 2."""
    tokenizer = qwen_tokenizer()
    return PRXPixelPipeline(
        transformer=_transformer(in_channels=3, patch_size=4, bottleneck_size=8),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        default_sample_size=16,
        prompt_max_tokens=48,
    )
