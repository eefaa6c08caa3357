"""Cosmos 3."""

from __future__ import annotations

from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer, DiffusionPipeline, UniPCMultistepScheduler

from omni_rl_tiny.pipelines.autoencoders import wan_vae
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def cosmos3_omni() -> DiffusionPipeline:
    """Video of one prompt at a time, by a denoiser that reads the text; the safety checker is left out."""
    tokenizer = qwen_tokenizer()
    transformer = Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=32,
        intermediate_size=32,
        latent_channel=4,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=1,
        patch_latent_dim=16,
        rope_axes_dim=[4, 2, 2],
        vocab_size=len(tokenizer),
    )
    return Cosmos3OmniPipeline(
        transformer=transformer,
        text_tokenizer=tokenizer,
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        enable_safety_checker=False,
    )
