"""SkyReels-V2."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)
from tiny_tokenizers import t5_tokenizer

from tiny_pipelines.autoencoders import wan_vae
from tiny_pipelines.text_encoders import WIDTH, umt5_encoder


def skyreels_v2() -> DiffusionPipeline:
    """Video, CFG in two passes, the published UniPC scheduler with flow_shift 8."""
    tokenizer = t5_tokenizer()
    transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    return SkyReelsV2Pipeline(
        tokenizer=tokenizer,
        text_encoder=umt5_encoder(tokenizer),
        transformer=transformer,
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
    )
