"""PRX."""

from __future__ import annotations

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, PRXPipeline, PRXTransformer2DModel
from tiny_pipelines.autoencoders import image_vae
from tiny_pipelines.text_encoders import WIDTH, t5gemma
from tiny_tokenizers import gemma_tokenizer


def prx() -> DiffusionPipeline:
    """Batched CFG over masked text, embeddings under other names inside the pipeline than in its arguments."""
    tokenizer = gemma_tokenizer()
    tokenizer.model_max_length = 48
    transformer = PRXTransformer2DModel(
        in_channels=4,
        context_in_dim=WIDTH,
        hidden_size=WIDTH,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[8, 8],
    )
    return PRXPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=t5gemma(tokenizer),
        tokenizer=tokenizer,
        vae=image_vae(),
        default_sample_size=16,
    )
