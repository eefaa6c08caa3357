"""Sana."""

from __future__ import annotations

from diffusers import (
    AutoencoderDC,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    SanaPAGPipeline,
    SanaPipeline,
    SanaTransformer2DModel,
)

from omni_rl_tiny.pipelines.text_encoders import WIDTH, gemma2
from omni_rl_tiny.pipelines.tokenizers import gemma_tokenizer


def sana() -> DiffusionPipeline:
    """Batched CFG, linear attention, attention masks, the published DPM-Solver whose flow_shift from_config drops."""
    tokenizer = gemma_tokenizer()
    text_encoder = gemma2(tokenizer)
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=32,
    )
    blocks = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "block_types": ("ResBlock", "EfficientViTBlock"),
            "block_out_channels": (8, 8),
            "qkv_multiscales": ((), (5,)),
            "layers_per_block": (1, 1),
        }.items()
    }
    vae = AutoencoderDC(latent_channels=4, attention_head_dim=2, upsample_block_type="interpolate", **blocks)
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(tokenizer, text_encoder, vae, transformer, scheduler)


def sana_pag() -> DiffusionPipeline:
    """The same with perturbed attention: another attention processor for the length of a call."""
    return SanaPAGPipeline(**sana().components, pag_applied_layers=["transformer_blocks.1"])
