"""Pipelines that take images: editing with one and several, a clip, concatenated tokens, Wan's first frame."""

from __future__ import annotations

from diffusers import (
    AutoencoderKL,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    LongCatImageEditPipeline,
    LongCatImageTransformer2DModel,
    LucyEditPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from omni_rl_tiny.pipelines.flux import flux
from omni_rl_tiny.pipelines.longcat_image import longcat_image
from omni_rl_tiny.pipelines.qwen_image import qwen_image
from omni_rl_tiny.pipelines.wan import SIZES, wan

CLIP_VISION = CLIPVisionConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
)


def clip_processor() -> CLIPImageProcessor:
    """For :data:`CLIP_VISION`: four tokens and one for the whole."""
    return CLIPImageProcessor(crop_size=32, size=32)


def _qwen_processor(tokenizer: PreTrainedTokenizerBase) -> Qwen2VLProcessor:
    """Small images in few tokens."""
    pictures = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 28 * 28,
        "max_pixels": 56 * 56,
    }
    return Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pictures), tokenizer, Qwen2VLVideoProcessor(**pictures), chat_template="{{ messages }}"
    )


def qwen_image_edit_plus() -> DiffusionPipeline:
    """True CFG, one or more images seen by the text encoder and appended as tokens. It scales images to a million
    pixels, so that its autoencoder makes few tokens of many.
    """
    pipe = qwen_image(halvings=4)
    return QwenImageEditPlusPipeline(**pipe.components, processor=_qwen_processor(pipe.tokenizer))


def qwen_image_edit() -> DiffusionPipeline:
    """Like the pipeline above, but with one input image, whose size may differ from the sample's."""
    pipe = qwen_image(halvings=4)
    return QwenImageEditPipeline(**pipe.components, processor=_qwen_processor(pipe.tokenizer))


def longcat_image_edit() -> DiffusionPipeline:
    """CFG in two passes, an image seen by the text encoder and appended as tokens; sixteen latent channels."""
    pipe = longcat_image()
    parts = {
        "vae": AutoencoderKL(**{**pipe.vae.config, "latent_channels": 16}),
        "transformer": LongCatImageTransformer2DModel(**{**pipe.transformer.config, "in_channels": 64}),
        "text_processor": _qwen_processor(pipe.tokenizer),
    }
    return LongCatImageEditPipeline(**{**pipe.components, **parts})


def flux_kontext() -> DiffusionPipeline:
    """Guidance embedding, the image's tokens beside the sample's."""
    pipe = flux()
    return FluxKontextPipeline(
        **{n: c for n, c in pipe.components.items() if n not in ("image_encoder", "feature_extractor")}
    )


def wan_image_to_video(**transformer: object) -> DiffusionPipeline:
    """Wan 2.1: the first frame as further channels, and as CLIP sees it."""
    changes = {"in_channels": 12, "image_dim": 16, "added_kv_proj_dim": 24, **transformer}
    return _from_a_frame(changes, image_encoder=CLIPVisionModel(CLIP_VISION), image_processor=clip_processor())


def wan_first_and_last_frame() -> DiffusionPipeline:
    """Wan 2.1 FLF2V: CLIP sees a last frame too, in places of its own."""
    return wan_image_to_video(pos_embed_seq_len=2 * 5)


def wan_image_to_video_of_two_experts() -> DiffusionPipeline:
    """Wan 2.2: the first frame as further channels of both experts, of which CLIP knows nothing."""
    return _from_a_frame({"in_channels": 12}, experts=2, boundary_ratio=0.875)


def wan_image_to_video_by_token() -> DiffusionPipeline:
    """Wan 2.2 5B: the first frame in the sample's place, with a timestep of its own."""
    return _from_a_frame({}, expand_timesteps=True)


def lucy_edit() -> DiffusionPipeline:
    """A clip as further channels, through the transformer of Wan 2.2 5B."""
    pipe = wan()
    transformer = WanTransformer3DModel(**{**pipe.transformer.config, "in_channels": 8})
    return LucyEditPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        transformer=transformer,
        expand_timesteps=True,
    )


def chrono_edit() -> DiffusionPipeline:
    """An edited image as the last frame of a clip that starts from the given one, seen by CLIP too."""
    pipe = wan()
    return ChronoEditPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        image_encoder=CLIPVisionModel(CLIP_VISION),
        image_processor=clip_processor(),
        transformer=ChronoEditTransformer3DModel(
            **{**SIZES, "in_channels": 12}, image_dim=16, added_kv_proj_dim=24, rope_temporal_skip_len=2
        ),
        vae=pipe.vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
    )


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
