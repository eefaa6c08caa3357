"""Sana-Video."""

from __future__ import annotations

from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, SanaVideoPipeline, SanaVideoTransformer3DModel

from omni_rl_tiny.pipelines.autoencoders import wan_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, gemma2
from omni_rl_tiny.pipelines.tokenizers import gemma_tokenizer


def sana_video() -> DiffusionPipeline:
    """Video, batched CFG, linear attention, attention masks."""
    tokenizer = gemma_tokenizer()
    transformer = SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=12,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        rope_max_seq_len=32,
    )
    return SanaVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma2(tokenizer),
        vae=wan_vae(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
    )
