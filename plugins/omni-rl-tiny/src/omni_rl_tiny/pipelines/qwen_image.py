"""Qwen-Image."""

from __future__ import annotations

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel

from omni_rl_tiny.pipelines.autoencoders import qwen_image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, qwen_vl
from omni_rl_tiny.pipelines.tokenizers import qwen_tokenizer


def qwen_image(halvings: int = 1) -> DiffusionPipeline:
    """True CFG with norm preservation, a template prefix that is dropped, masks, shift_terminal."""
    tokenizer = qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = qwen_image_vae(halvings)
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift_terminal=0.02,
        use_dynamic_shifting=True,
    )
    return QwenImagePipeline(
        scheduler=scheduler, vae=vae, text_encoder=qwen_vl(tokenizer), tokenizer=tokenizer, transformer=transformer
    )
