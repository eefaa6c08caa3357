"""Builds tiny but real Qwen-Image pipelines: every component has the class of the large model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel

from omni_rl.errors import UserError
from omni_rl_tiny.text import random_text_encoder, train_tokenizer
from omni_rl_tiny.vae import box_bilinear_vae

_ROPE_AXES = {16: (4, 6, 6), 32: (8, 12, 12)}  # head dimension -> share of (frame, row, column), all even


@dataclass(frozen=True)
class Sizes:
    """Sizes of a pipeline.

    Attributes:
        layers, heads, head_dim: of the transformer; its width is heads * head_dim. head_dim is 16 or 32.
        text_layers, text_width: of the text encoder; text_width is divisible by 32.
        halvings: how often the autoencoder halves the resolution; an image's sides are divisible by 2**(halvings + 1).
    """

    layers: int = 3
    heads: int = 4
    head_dim: int = 16
    text_layers: int = 2
    text_width: int = 64
    halvings: int = 2


def assemble(sizes: Sizes, phrases: Sequence[str], seed: int) -> QwenImagePipeline:
    """A pipeline in fp32 on the CPU: random transformer and text encoder, hand-wired VAE, Qwen-Image's scheduler.

    Args:
        sizes: dimensions.
        phrases: texts whose words become single tokens.
        seed: of the random weights; torch's global generator is left as it was.
    """
    if sizes.head_dim not in _ROPE_AXES:
        raise UserError(f"head_dim must be one of {sorted(_ROPE_AXES)}, not {sizes.head_dim}")
    tokenizer = train_tokenizer(phrases)
    with torch.random.fork_rng(devices=[]):
        vae = box_bilinear_vae(sizes.halvings)
        torch.manual_seed(seed)
        text_encoder = random_text_encoder(tokenizer, sizes.text_width, sizes.text_layers)
        transformer = QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=4 * vae.config.z_dim,
            out_channels=vae.config.z_dim,
            num_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            attention_head_dim=sizes.head_dim,
            joint_attention_dim=sizes.text_width,
            axes_dims_rope=_ROPE_AXES[sizes.head_dim],
        ).eval()
    return QwenImagePipeline(
        scheduler=qwen_image_scheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )


def qwen_image_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of Qwen/Qwen-Image, from its published ``scheduler_config.json``."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        num_train_timesteps=1000,
        shift=1.0,
        shift_terminal=0.02,
        time_shift_type="exponential",
        use_dynamic_shifting=True,
    )
