"""Pipelines with control images and videos: extra channels, masks, ControlNets."""

from __future__ import annotations

from typing import Any

from diffusers import (
    CogView4ControlPipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxTransformer2DModel,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)

from omni_rl_tiny.pipelines.cogview4 import cogview4
from omni_rl_tiny.pipelines.flux import flux
from omni_rl_tiny.pipelines.qwen_image import qwen_image
from omni_rl_tiny.pipelines.stable_diffusion_3 import stable_diffusion_3
from omni_rl_tiny.pipelines.wan import SIZES, wan

_BY_PICTURES = ("image_encoder", "feature_extractor")
"""Components of IP adapters, which these pipelines do without."""


def _parts(pipe: DiffusionPipeline) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if name not in _BY_PICTURES}


def _flux_parts(**transformer: int) -> dict[str, Any]:
    parts = _parts(flux())
    return {**parts, "transformer": FluxTransformer2DModel(**{**parts["transformer"].config, **transformer})}


def flux_control() -> DiffusionPipeline:
    """Another image's channels beside the sample's, drawn from what the autoencoder answered."""
    return FluxControlPipeline(**_flux_parts(in_channels=32, out_channels=16))


def flux_fill() -> DiffusionPipeline:
    """An image with a hole, and the hole itself, which no encoder sees, as channels beside the sample's."""
    return FluxFillPipeline(**_flux_parts(in_channels=48, out_channels=16))


def cogview4_control() -> DiffusionPipeline:
    """Another image's channels beside the sample's, CFG in two passes."""
    parts = cogview4().components
    transformer = CogView4Transformer2DModel(**{**parts["transformer"].config, "in_channels": 8})
    return CogView4ControlPipeline(**{**parts, "transformer": transformer})


def wan_vace() -> DiffusionPipeline:
    """A clip, a mask for it and images of what is to be seen in it, read by layers of their own."""
    pipe = wan()
    transformer = WanVACETransformer3DModel(**SIZES, vace_layers=[0], vace_in_channels=2 * 4 + 8 * 8)
    return WanVACEPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        transformer=transformer,
    )


def flux_controlnet() -> DiffusionPipeline:
    """A ControlNet, which stays as it is, reads the image in every step; guidance embeddings for both."""
    parts = _parts(flux())
    sizes = {n: v for n, v in parts["transformer"].config.items() if n != "out_channels"}
    return FluxControlNetPipeline(**parts, controlnet=FluxControlNetModel(**sizes))


def stable_diffusion_3_controlnet() -> DiffusionPipeline:
    """A ControlNet, which stays as it is, reads the image in every step; batched CFG."""
    parts = _parts(stable_diffusion_3())
    config = {**parts["transformer"].config, "num_layers": 1}
    return StableDiffusion3ControlNetPipeline(**parts, controlnet=SD3ControlNetModel(**config))


def qwen_image_controlnet() -> DiffusionPipeline:
    """A ControlNet, which stays as it is, reads the image in every step; true CFG."""
    parts = qwen_image().components
    sizes = ("patch_size", "in_channels", "out_channels", "attention_head_dim", "num_attention_heads",
             "joint_attention_dim", "axes_dims_rope")  # fmt: skip
    config = {name: parts["transformer"].config[name] for name in sizes}
    return QwenImageControlNetPipeline(**parts, controlnet=QwenImageControlNetModel(**config, num_layers=1))
