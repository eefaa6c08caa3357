"""Kandinsky 5."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from transformers import CLIPTextModel, Qwen2Tokenizer

from omni_rl_tiny.pipelines.hunyuan_video import video_vae
from omni_rl_tiny.pipelines.text_encoders import WIDTH, clip_config, qwen_vl
from omni_rl_tiny.pipelines.tokenizers import clip_tokenizer, qwen_tokenizer


class _WithoutPictures(Qwen2Tokenizer):
    """Called as the published processor is, which needs torchvision; nothing but text goes through it."""

    def __call__(self, *args: object, images: None = None, videos: None = None, **kwargs: object) -> object:
        return super().__call__(*args, **kwargs)


def kandinsky5_t2v() -> DiffusionPipeline:
    """Video with channels last, CFG in two passes, prompts as long as they are, with their cumulative lengths."""
    tokenizer, clip = qwen_tokenizer(), clip_tokenizer()
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 6, 6),
    )
    return Kandinsky5T2VPipeline(
        transformer=transformer,
        vae=video_vae(),
        text_encoder=qwen_vl(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModel(clip_config(clip)),
        tokenizer_2=clip,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
