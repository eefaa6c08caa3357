"""AnyFlow."""

from __future__ import annotations

from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, DiffusionPipeline, FlowMapEulerDiscreteScheduler

from omni_rl_tiny.pipelines.autoencoders import wan_vae
from omni_rl_tiny.pipelines.text_encoders import umt5_encoder
from omni_rl_tiny.pipelines.tokenizers import t5_tokenizer
from omni_rl_tiny.pipelines.wan import SIZES


def anyflow() -> DiffusionPipeline:
    """Video; a flow map, which is told the next timestep beside this one."""
    tokenizer = t5_tokenizer()
    transformer = AnyFlowTransformer3DModel(**SIZES)
    return AnyFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=umt5_encoder(tokenizer),
        transformer=transformer,
        vae=wan_vae(),
        scheduler=FlowMapEulerDiscreteScheduler(),
    )
