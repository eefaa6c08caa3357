"""Wan 2.1 and 2.2."""

from __future__ import annotations

from diffusers import DiffusionPipeline, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from omni_rl_tiny.pipelines.autoencoders import wan_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, umt5_encoder
from omni_rl_tiny.pipelines.tokenizers import t5_tokenizer

SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": WIDTH,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
"""Of Wan's transformer, and of those that were made from it."""


def _wan_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(patch_size=(1, 2, 2), **SIZES, cross_attn_norm=True, qk_norm="rms_norm_across_heads")


def wan(**components: object) -> DiffusionPipeline:
    """Video, CFG in two passes, the published UniPC scheduler whose flow_shift a plain from_config drops."""
    t5 = t5_tokenizer()
    transformer = _wan_transformer()
    vae = wan_vae()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    text_encoder = umt5_encoder(t5)
    return WanPipeline(
        tokenizer=t5, text_encoder=text_encoder, vae=vae, scheduler=scheduler, transformer=transformer, **components
    )


def wan_of_two_experts() -> DiffusionPipeline:
    """Wan 2.2: another transformer, and another guidance scale, where there is little noise left."""
    return wan(transformer_2=_wan_transformer(), boundary_ratio=0.875)
