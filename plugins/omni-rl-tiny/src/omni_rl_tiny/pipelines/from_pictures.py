"""Pipelines that take pictures: editing with one and several, concatenated tokens, a first frame."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FluxKontextPipeline,
    QwenImageEditPlusPipeline,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from omni_rl_tiny.pipelines.flux import flux
from omni_rl_tiny.pipelines.qwen_image import qwen_image
from omni_rl_tiny.pipelines.wan import wan


def qwen_image_edit_plus() -> DiffusionPipeline:
    """True CFG, one or more pictures seen by the text encoder and appended as tokens. It scales pictures to a million
    pixels, so that its autoencoder makes few tokens of many.
    """
    pipe = qwen_image(halvings=4)
    pictures = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 28 * 28,
        "max_pixels": 56 * 56,
    }
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pictures),
        pipe.tokenizer,
        Qwen2VLVideoProcessor(**pictures),
        chat_template="{{ messages }}",
    )
    return QwenImageEditPlusPipeline(
        scheduler=pipe.scheduler,
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        processor=processor,
        transformer=pipe.transformer,
    )


def flux_kontext() -> DiffusionPipeline:
    """Guidance embedding, the picture's tokens beside the sample's."""
    pipe = flux()
    return FluxKontextPipeline(
        **{n: c for n, c in pipe.components.items() if n not in ("image_encoder", "feature_extractor")}
    )


def wan_image_to_video(**transformer: object) -> DiffusionPipeline:
    """Wan 2.1: the first frame as further channels, and as CLIP sees it."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    return _from_a_frame(
        {"in_channels": 12, "image_dim": 16, "added_kv_proj_dim": 24, **transformer},
        image_encoder=CLIPVisionModel(vision),
        image_processor=CLIPImageProcessor(crop_size=32, size=32),
    )


def wan_first_and_last_frame() -> DiffusionPipeline:
    """Wan 2.1 FLF2V: CLIP sees a last frame too, in places of its own."""
    return wan_image_to_video(pos_embed_seq_len=2 * 5)


def wan_image_to_video_of_two_experts() -> DiffusionPipeline:
    """Wan 2.2: the first frame as further channels of both experts, of which CLIP knows nothing."""
    return _from_a_frame({"in_channels": 12}, experts=2, boundary_ratio=0.875)


def wan_image_to_video_by_token() -> DiffusionPipeline:
    """Wan 2.2 5B: the first frame in the sample's place, with a timestep of its own."""
    return _from_a_frame({}, expand_timesteps=True)


def _from_a_frame(changes: dict[str, object], experts: int = 1, **components: object) -> DiffusionPipeline:
    pipe = wan()
    names = ("transformer", "transformer_2")[:experts]
    transformers = {name: WanTransformer3DModel(**{**pipe.transformer.config, **changes}) for name in names}
    return WanImageToVideoPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        **transformers,
        **components,
    )
