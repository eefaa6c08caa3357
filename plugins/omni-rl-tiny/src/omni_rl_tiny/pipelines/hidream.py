"""HiDream-I1."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from transformers import CLIPTextModelWithProjection

from omni_rl_tiny.pipelines.autoencoders import image_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, clip_config, llama_for_causal_lm, t5_encoder
from omni_rl_tiny.pipelines.tokenizers import clip_tokenizer, llama_tokenizer, t5_tokenizer


def hidream() -> DiffusionPipeline:
    """Batched CFG, four text encoders of which one gives all its layers, a mixture of experts, the sign is turned."""
    clip, t5, llama = clip_tokenizer(), t5_tokenizer(), llama_tokenizer()
    transformer = HiDreamImageTransformer2DModel(
        patch_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(128, 128),
        llama_layers=[0, 1],
        force_inference_output=True,
    )
    return HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(attention=False),
        text_encoder=CLIPTextModelWithProjection(clip_config(clip)),
        tokenizer=clip,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(clip)),
        tokenizer_2=clip,
        text_encoder_3=t5_encoder(t5),
        tokenizer_3=t5,
        text_encoder_4=llama_for_causal_lm(llama),
        tokenizer_4=llama,
        transformer=transformer,
    )
