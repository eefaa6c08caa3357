"""The guidance of LTX-2: the strength of each kind per stream, and guided velocities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import rescale_noise_cfg

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl_ltx2.media import sizes_of

OFF = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
"""The strength at which each kind of guidance is off: CFG, perturbed attention (STG), and isolated streams."""

STRENGTHS = (*OFF, "guidance_rescale")
"""Guidance strengths of the video; those of the audio have the prefix ``audio_``."""


def strengths_of(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Guidance strengths by stream and kind; for audio, None and 0 mean the value of the video, as in the pipeline."""
    video = {name: model.argument(call, name) for name in STRENGTHS}
    return {"x": video, "audio": {n: model.argument(call, f"audio_{n}") or own for n, own in video.items()}}


def switched_on(strengths: Mapping[str, Mapping[str, float]]) -> set[str]:
    """The kinds of guidance that are on for at least one stream. Such a kind is then applied to both streams."""
    return {name for name, off in OFF.items() if any(each[name] > off for each in strengths.values())}


def guided(
    x: torch.Tensor, sigma: torch.Tensor, strengths: Mapping[str, float], own: torch.Tensor, others: Tensors
) -> torch.Tensor:
    """Guided velocity (B, tokens, C). As in the pipeline, guidance moves the predicted data x - sigma v away from those
    of ``others`` and rescales them to their standard deviation with the prompt. The order of operations is the
    pipeline's, because rounding errors are divided by sigma (B, 1, 1).
    """
    data = led = x - own * sigma
    for kind, velocity in others.items():
        led = led + (strengths[kind] - OFF[kind]) * (data - (x - velocity * sigma))
    if strengths["guidance_rescale"] > 0:
        led = rescale_noise_cfg(led, data, strengths["guidance_rescale"])
    return (x - led) / sigma


def velocities(
    model: LoadedModel, x: Streams, t: torch.Tensor, text: Tensors, call: Mapping[str, Any], **how: Any
) -> list[Streams]:
    """Velocities for several texts (n B, ...) in one call of the denoiser, one result per text."""
    times = len(text["text_mask"]) // len(t)
    video, audio = (x[name].to(model.input_dtype).repeat(times, 1, 1) for name in ("x", "audio"))
    outputs = model.pipe.transformer(
        hidden_states=video,
        audio_hidden_states=audio,
        encoder_hidden_states=text["video_text"].to(video.dtype),
        audio_encoder_hidden_states=text["audio_text"].to(video.dtype),
        timestep=t.repeat(times),
        sigma=t.repeat(times),
        encoder_attention_mask=text["text_mask"],
        audio_encoder_attention_mask=text["text_mask"],
        fps=model.argument(call, "frame_rate"),
        use_cross_timestep=model.argument(call, "use_cross_timestep"),
        return_dict=False,
        **sizes_of(model, call),
        **how,
    )
    parts = zip(*(output.float().chunk(times) for output in outputs), strict=True)
    return [dict(zip(("x", "audio"), each, strict=True)) for each in parts]
