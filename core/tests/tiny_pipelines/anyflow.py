"""AnyFlow."""

from __future__ import annotations

from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, DiffusionPipeline, FlowMapEulerDiscreteScheduler
from tiny_tokenizers import t5_tokenizer

from tiny_pipelines.autoencoders import wan_vae
from tiny_pipelines.text_encoders import WIDTH, umt5_encoder


def anyflow() -> DiffusionPipeline:
    """Video; a flow map, which is told the next timestep beside this one."""
    tokenizer = t5_tokenizer()
    transformer = AnyFlowTransformer3DModel(
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
    return AnyFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=umt5_encoder(tokenizer),
        transformer=transformer,
        vae=wan_vae(),
        scheduler=FlowMapEulerDiscreteScheduler(),
    )
