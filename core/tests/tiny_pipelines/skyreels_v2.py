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
from tiny_pipelines.text_encoders import umt5_encoder
from tiny_pipelines.wan import SIZES


def skyreels_v2() -> DiffusionPipeline:
    """Video, CFG in two passes, the published UniPC scheduler with flow_shift 8."""
    tokenizer = t5_tokenizer()
    transformer = SkyReelsV2Transformer3DModel(**SIZES)
    return SkyReelsV2Pipeline(
        tokenizer=tokenizer,
        text_encoder=umt5_encoder(tokenizer),
        transformer=transformer,
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
    )
