"""Tiny random pipelines that take pictures: editing with one and several, concatenated tokens, a first frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tiny_pipelines
from diffusers import (
    DiffusionPipeline,
    FluxKontextPipeline,
    QwenImageEditPlusPipeline,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

PIXELS = 32 * 32
"""Area to which the editing pipeline scales a picture; the published one is 1024 x 1024."""


def qwen_image_edit_plus() -> DiffusionPipeline:
    """True CFG, one or more pictures seen by the text encoder and appended as tokens."""
    pipe = tiny_pipelines.BUILDERS["QwenImagePipeline"]()
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
    pipe = tiny_pipelines.BUILDERS["FluxPipeline"]()
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
    pipe = tiny_pipelines.BUILDERS["WanPipeline"]()
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


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "QwenImageEditPlusPipeline": qwen_image_edit_plus,
    "FluxKontextPipeline": flux_kontext,
    "WanImageToVideoPipeline": wan_image_to_video,
}

CALLS: dict[str, dict[str, object]] = {
    "QwenImageEditPlusPipeline": {"height": 16, "width": 32, "true_cfg_scale": 4.0, "negative_prompt": " "},
    "FluxKontextPipeline": {
        "height": 32,
        "width": 16,
        "guidance_scale": 3.5,
        "max_sequence_length": 32,
        "max_area": 512,
        "_auto_resize": False,
    },
    "WanImageToVideoPipeline": {
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "guidance_scale": 5.0,
        "negative_prompt": "hello",
    },
}


def build(architecture: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny random pipeline of ``architecture`` into ``folder``."""
    return tiny_pipelines.write(BUILDERS[architecture], folder, seed)


def small_pictures(monkeypatch: object) -> None:
    """The editing pipeline scales to :data:`PIXELS`."""
    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
        monkeypatch.setattr(edit_plus, name, PIXELS)  # type: ignore[attr-defined]


def picture(file: Path, size: Sequence[int], seed: int) -> str:
    """A picture of noise around a colour of its own."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 200, 3)
    pixels = rng.integers(0, 56, (size[1], size[0], 3)) + level
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return file.name
