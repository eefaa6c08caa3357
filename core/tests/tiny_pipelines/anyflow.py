"""AnyFlow."""

from __future__ import annotations

from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, DiffusionPipeline, FlowMapEulerDiscreteScheduler
from tiny_tokenizers import t5_tokenizer

from tiny_pipelines.autoencoders import wan_vae
from tiny_pipelines.text_encoders import umt5_encoder
from tiny_pipelines.wan import SIZES


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
