"""OmniGen."""

from __future__ import annotations

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, OmniGenPipeline, OmniGenTransformer2DModel

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.tokenizers import llama_tokenizer


def omnigen() -> DiffusionPipeline:
    """A denoiser that reads the prompt's tokens itself, batched CFG; time runs the other way."""
    tokenizer = llama_tokenizer()
    transformer = OmniGenTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=1,
        pad_token_id=0,
        vocab_size=len(tokenizer),
        time_step_dim=16,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
    )
    return OmniGenPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        vae=image_vae(widths=(4, 4, 4, 4)),
        tokenizer=tokenizer,
    )
