"""The pipelines of ``model_plugins.py``: thin, shallow transformers on some hundred tokens, guidance as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus

ROWS, WIDTH, TEXT, SIDE, CAPTION = 4, 256, 32, 128, 64


@dataclass(frozen=True)
class Case:
    """A pipeline without text encoders, the arguments of its call, and the text of one row by name and shape.

    Attributes:
        kept: turns text into the plugin's form of it, which a run computes once.
        picture: shape of what the autoencoder answers about a row's picture: means and log-variances.
    """

    pipe: Callable[[], DiffusionPipeline]
    call: dict[str, Any]
    text: dict[str, tuple[int, ...]]
    guided: bool = True
    kept: Callable[[DiffusionPipeline, dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    picture: tuple[int, ...] = ()

    def conditioning(self) -> dict[str, torch.Tensor]:
        """Random embeddings, all tokens real, of prompts and, with guidance, of negative prompts; random pictures."""
        generator = torch.Generator().manual_seed(1)
        signs = ("", "negative_") if self.guided else ("",)
        given = {"encoded_vae_0_0": torch.randn(ROWS, *self.picture, generator=generator)} if self.picture else {}
        size = {"size_of_image": torch.full((ROWS, 2), SIDE)} if self.picture else {}
        return (
            given
            | size
            | {
                f"{sign}{name}": torch.ones(ROWS, *shape, dtype=torch.long)
                if name.endswith("mask")
                else torch.randn(ROWS, *shape, generator=generator)
                for sign in signs
                for name, shape in self.text.items()
            }
        )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """No dynamic shift: schedules are not what is measured."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def image_vae() -> AutoencoderKL:
    """Of 8 pixels to a latent, as published, and next to no width."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        shift_factor=0.0,
    )


def qwen_image() -> DiffusionPipeline:
    """True CFG, two calls."""
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(16, 24, 24),
    )
    vae = AutoencoderKLQwenImage(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return QwenImagePipeline(scheduler(), vae, None, None, transformer)


def qwen_image_edit() -> DiffusionPipeline:
    """As Qwen-Image, with a picture's tokens behind the sample's."""
    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
        setattr(
            edit_plus, name, SIDE * SIDE
        )  # to which the pipeline scales a picture; the published one is 1024 x 1024
    pipe = qwen_image()
    return QwenImageEditPlusPipeline(pipe.scheduler, pipe.vae, None, None, None, pipe.transformer)


def stable_diffusion_3() -> DiffusionPipeline:
    """CFG."""
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=256,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=SIDE // 8,
    )
    nothing = dict.fromkeys([f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")])
    return StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler(), vae=image_vae(), **nothing)


def flux() -> DiffusionPipeline:
    """A guidance embedding."""
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(16, 24, 24),
        guidance_embeds=True,
    )
    return FluxPipeline(scheduler(), image_vae(), None, None, None, None, transformer)


def flux_kontext() -> DiffusionPipeline:
    """As FLUX.1, with a picture's tokens behind the sample's."""
    pipe = flux()
    return FluxKontextPipeline(pipe.scheduler, pipe.vae, None, None, None, None, pipe.transformer)


def flux2_parts(guidance_embeds: bool) -> tuple[AutoencoderKLFlux2, Flux2Transformer2DModel]:
    """Autoencoder and transformer of FLUX.2 and Klein."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
    )
    transformer = Flux2Transformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(16, 16, 16, 16),
        guidance_embeds=guidance_embeds,
    )
    return vae, transformer


def flux2() -> DiffusionPipeline:
    """A guidance embedding."""
    vae, transformer = flux2_parts(guidance_embeds=True)
    return Flux2Pipeline(scheduler(), vae, None, None, transformer)


def flux2_klein() -> DiffusionPipeline:
    """CFG."""
    vae, transformer = flux2_parts(guidance_embeds=False)
    return Flux2KleinPipeline(scheduler(), vae, None, None, transformer)


def wan_parts(in_channels: int) -> tuple[AutoencoderKLWan, WanTransformer3DModel]:
    """Autoencoder and transformer, of which 16 channels are the sample's."""
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=in_channels,
        text_dim=WIDTH,
        ffn_dim=1024,
        num_layers=2,
    )
    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1), transformer


def wan() -> DiffusionPipeline:
    """Video with CFG."""
    vae, transformer = wan_parts(16)
    return WanPipeline(None, None, vae, scheduler(), transformer)


def ltx2() -> DiffusionPipeline:
    """LTX-2.3, video with sound: CFG, perturbed attention, isolated streams; connectors of an eighth of the depth."""
    both = dict.fromkeys(("gated_attn", "cross_attn_mod", "audio_gated_attn", "audio_cross_attn_mod"), True)
    transformer = LTX2VideoTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        cross_attention_dim=256,
        audio_num_attention_heads=4,
        audio_attention_head_dim=32,
        audio_cross_attention_dim=128,
        num_layers=8,
        use_prompt_embeddings=False,
        perturbed_attn=True,
        rope_type="split",
        **both,
    )
    names = ("num_attention_heads", "attention_head_dim", "num_layers", "num_learnable_registers")
    connectors = LTX2TextConnectors(
        caption_channels=CAPTION,
        per_modality_projections=True,
        video_hidden_dim=256,
        audio_hidden_dim=128,
        rope_type="split",
        **{f"video_connector_{n}": v for n, v in zip(names, (4, 64, 1, TEXT), strict=True)},
        **{f"audio_connector_{n}": v for n, v in zip(names, (4, 32, 1, TEXT), strict=True)},
    )
    thin = {"block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 3}
    layers = {"layers_per_block": (1,) * 4, "decoder_layers_per_block": (1,) * 4}
    vae, audio_vae = AutoencoderKLLTX2Video(**thin, **layers), AutoencoderKLLTX2Audio()
    return LTX2Pipeline(scheduler(), vae, audio_vae, None, None, connectors, transformer, None)


def ltx2_text(pipe: DiffusionPipeline, text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Through the connectors."""
    kept = {}
    for sign in ("", "negative_"):
        answers = pipe.connectors(text[f"{sign}prompt_embeds"], text[f"{sign}prompt_attention_mask"])
        names = (f"{sign}video_text", f"{sign}audio_text", f"{sign}text_mask")
        kept |= {name: answer.detach() for name, answer in zip(names, answers, strict=True)}
    return kept


def wan_image_to_video() -> DiffusionPipeline:
    """The same with the first frame and its mask as further channels."""
    vae, transformer = wan_parts(36)
    return WanImageToVideoPipeline(None, None, vae, scheduler(), transformer=transformer)


def z_image() -> DiffusionPipeline:
    """Lists in place of batches, CFG."""
    transformer = ZImageTransformer2DModel(
        dim=256, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=4, cap_feat_dim=WIDTH, axes_dims=[16, 24, 24]
    )
    return ZImagePipeline(scheduler(), image_vae(), None, None, transformer)


PICTURE = {"height": SIDE, "width": SIDE}
VIDEO = {"height": 64, "width": 64, "num_frames": 9}
EMBEDS = {"prompt_embeds": (TEXT, WIDTH)}

CASES: dict[str, Case] = {
    "QwenImagePipeline": Case(
        qwen_image, {**PICTURE, "true_cfg_scale": 4.0}, {**EMBEDS, "prompt_embeds_mask": (TEXT,)}
    ),
    "QwenImageEditPlusPipeline": Case(
        qwen_image_edit,
        {**PICTURE, "true_cfg_scale": 4.0},
        {**EMBEDS, "prompt_embeds_mask": (TEXT,)},
        picture=(32, 1, SIDE // 8, SIDE // 8),
    ),
    "StableDiffusion3Pipeline": Case(
        stable_diffusion_3, {**PICTURE, "guidance_scale": 4.5}, {**EMBEDS, "pooled_prompt_embeds": (WIDTH,)}
    ),
    "FluxPipeline": Case(
        flux, {**PICTURE, "guidance_scale": 3.5}, {**EMBEDS, "pooled_prompt_embeds": (WIDTH,)}, guided=False
    ),
    "FluxKontextPipeline": Case(
        flux_kontext,
        {**PICTURE, "guidance_scale": 2.5, "max_area": SIDE * SIDE, "_auto_resize": False},
        {**EMBEDS, "pooled_prompt_embeds": (WIDTH,)},
        guided=False,
        picture=(32, SIDE // 8, SIDE // 8),
    ),
    "Flux2Pipeline": Case(flux2, {**PICTURE, "guidance_scale": 4.0}, EMBEDS, guided=False),
    "Flux2KleinPipeline": Case(flux2_klein, {**PICTURE, "guidance_scale": 4.0}, EMBEDS),
    "WanPipeline": Case(wan, {**VIDEO, "guidance_scale": 5.0}, EMBEDS),
    "WanImageToVideoPipeline": Case(
        wan_image_to_video, {**VIDEO, "guidance_scale": 5.0}, EMBEDS, picture=(32, 3, 8, 8)
    ),
    "LTX2Pipeline": Case(
        ltx2,
        {"height": 192, "width": 192, "num_frames": 33, "spatio_temporal_guidance_blocks": [5]},
        {"prompt_embeds": (TEXT, 49 * CAPTION), "prompt_attention_mask": (TEXT,)},
        kept=ltx2_text,
    ),
    "ZImagePipeline": Case(z_image, {**PICTURE, "guidance_scale": 4.0}, {**EMBEDS, "prompt_embeds_list_mask": (TEXT,)}),
}
