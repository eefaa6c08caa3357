"""LTX-2."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

from omni_rl_tiny.pipelines.text_encoders import WIDTH, gemma3
from omni_rl_tiny.pipelines.tokenizers import gemma_tokenizer


def _transformer(**changes: Any) -> LTX2VideoTransformer3DModel:
    values = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 8,
        "num_layers": 2,
        "caption_channels": WIDTH,
        "rope_double_precision": False,
    }
    return LTX2VideoTransformer3DModel(**{**values, **changes})


def _with_statistics(vae: Any) -> Any:
    """By which the pipeline normalises latents, and at which checkpoints do not leave 0 and 1."""
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    return vae


def _vae() -> AutoencoderKLLTX2Video:
    return AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
    )


def _audio_vae() -> AutoencoderKLLTX2Audio:
    return AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )


def _connectors(heads: tuple[int, int], registers: int | None, **changes: Any) -> LTX2TextConnectors:
    """``heads``: the width of each of two heads, for the image's text and for the sound's."""
    values = {
        f"{stream}_connector_{name}": value
        for stream, width in zip(("video", "audio"), heads, strict=True)
        for name, value in (
            ("num_attention_heads", 2),
            ("attention_head_dim", width),
            ("num_layers", 1),
            ("num_learnable_registers", registers),
        )
    }
    return LTX2TextConnectors(
        caption_channels=WIDTH, text_proj_in_factor=3, rope_double_precision=False, **{**values, **changes}
    )


def _pipeline(transformer: LTX2VideoTransformer3DModel, connectors: LTX2TextConnectors) -> DiffusionPipeline:
    tokenizer = gemma_tokenizer()
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05),
        vae=_with_statistics(_vae()),
        audio_vae=_with_statistics(_audio_vae()),
        text_encoder=gemma3(tokenizer),
        tokenizer=tokenizer,
        connectors=connectors,
        transformer=transformer,
        vocoder=LTX2Vocoder(
            in_channels=16,
            hidden_channels=8,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
        ),
    )


def ltx2() -> DiffusionPipeline:
    """Video with sound in two streams, guidance on data instead of velocities, a scheduler for each stream."""
    return _pipeline(_transformer(), _connectors((WIDTH // 2, WIDTH // 2), registers=None))


def ltx2_3() -> DiffusionPipeline:
    """LTX-2.3: attention that can be perturbed and has gates, text modulated by the timestep, registers for padding."""
    names = ("gated_attn", "cross_attn_mod", "audio_gated_attn", "audio_cross_attn_mod", "perturbed_attn")
    transformer = _transformer(**dict.fromkeys(names, True), use_prompt_embeddings=False, rope_type="split")
    sizes = {"per_modality_projections": True, "video_hidden_dim": 16, "audio_hidden_dim": 8, "rope_type": "split"}
    gates = {"video_gated_attn": True, "audio_gated_attn": True, "proj_bias": True}
    return _pipeline(transformer, _connectors((8, 4), registers=8, **sizes, **gates))
