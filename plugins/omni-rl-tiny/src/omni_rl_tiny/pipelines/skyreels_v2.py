"""SkyReels-V2."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)

from omni_rl_tiny.pipelines.autoencoders import wan_vae
from omni_rl_tiny.pipelines.text_encoders import umt5_encoder
from omni_rl_tiny.pipelines.tokenizers import t5_tokenizer
from omni_rl_tiny.pipelines.wan import SIZES


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


def skyreels_v2_diffusion_forcing() -> DiffusionPipeline:
    """A timestep and a scheduler for each frame."""
    pipe = skyreels_v2()
    transformer = SkyReelsV2Transformer3DModel(**SIZES, inject_sample_info=True)
    return SkyReelsV2DiffusionForcingPipeline(**{**pipe.components, "transformer": transformer})
