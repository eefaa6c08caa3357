"""Videos that start from an image, beyond Wan's."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5I2VPipeline,
    Kandinsky5Transformer3DModel,
    LTX2ImageToVideoPipeline,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    SanaImageToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Transformer3DModel,
)
from transformers import CLIPVisionModelWithProjection, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from omni_rl_tiny.pipelines.from_pictures import CLIP_VISION, clip_processor
from omni_rl_tiny.pipelines.hunyuan_video import hunyuan_video
from omni_rl_tiny.pipelines.kandinsky5 import kandinsky5_t2v
from omni_rl_tiny.pipelines.ltx import ltx
from omni_rl_tiny.pipelines.ltx2 import ltx2
from omni_rl_tiny.pipelines.sana_video import sana_video
from omni_rl_tiny.pipelines.skyreels_v2 import skyreels_v2
from omni_rl_tiny.pipelines.text_encoders import decoder_sizes


def ltx2_image_to_video() -> DiffusionPipeline:
    """The first frame of one of two streams is an image, in the latents themselves, with a timestep of its own."""
    return LTX2ImageToVideoPipeline(**ltx2().components)


def ltx_image_to_video() -> DiffusionPipeline:
    """The first frame is an image, in the latents themselves, with a timestep of its own."""
    return LTXImageToVideoPipeline(**ltx().components)


def ltx_condition() -> DiffusionPipeline:
    """Images at any frame, each with a strength, of which the table's default is the first frame at full strength."""
    return LTXConditionPipeline(**ltx().components)


def hunyuan_video_image_to_video() -> DiffusionPipeline:
    """The image as further channels, in the tokens that a vision language model reads, and a little in the noise."""
    pipe = hunyuan_video()
    tokenizer = pipe.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|end_header_id|>"]})
    text = LlamaConfig(**decoder_sizes(tokenizer, layers=4), pad_token_id=tokenizer.pad_token_id)
    place = tokenizer.convert_tokens_to_ids("<image>")
    llava = LlavaConfig(vision_config=CLIP_VISION, text_config=text, image_token_index=place, image_seq_length=4)
    llava.pad_token_id = tokenizer.pad_token_id
    changes = {"in_channels": 9, "image_condition_type": "latent_concat"}
    parts = {
        "text_encoder": LlavaForConditionalGeneration(llava),
        "transformer": HunyuanVideoTransformer3DModel(**{**pipe.transformer.config, **changes}),
        "image_processor": clip_processor(),
    }
    return HunyuanVideoImageToVideoPipeline(**{**pipe.components, **parts})


def kandinsky5_i2v() -> DiffusionPipeline:
    """The first frame is an image, in the latents themselves; zeros and a mask for it are further channels."""
    pipe = kandinsky5_t2v()
    transformer = Kandinsky5Transformer3DModel(**{**pipe.transformer.config, "visual_cond": True})
    return Kandinsky5I2VPipeline(**{**pipe.components, "transformer": transformer})


def skyreels_v2_image_to_video() -> DiffusionPipeline:
    """The first frame as further channels, and as CLIP sees it."""
    pipe = skyreels_v2()
    changes = {"in_channels": 12, "image_dim": 16, "added_kv_proj_dim": 24}
    parts = {
        "transformer": SkyReelsV2Transformer3DModel(**{**pipe.transformer.config, **changes}),
        "image_encoder": CLIPVisionModelWithProjection(CLIP_VISION),
        "image_processor": clip_processor(),
    }
    return SkyReelsV2ImageToVideoPipeline(**{**pipe.components, **parts})


def sana_image_to_video() -> DiffusionPipeline:
    """The first frame is an image, which takes the place of what was drawn for it, with a timestep of its own."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=8.0)
    return SanaImageToVideoPipeline(**{**sana_video().components, "scheduler": scheduler})
