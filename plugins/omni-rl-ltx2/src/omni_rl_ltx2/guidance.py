"""The transformer of LTX-2, and its kinds of guidance: how strong each is for either stream, and what they make of
velocities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import rescale_noise_cfg

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl_ltx2.media import sizes_of

OFF = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
"""Where each kind of guidance is off: from the negative prompt, perturbed attention (STG), and isolated streams."""

STRENGTHS = (*OFF, "guidance_rescale")
"""Each for the picture, and with ``audio_`` before it for the sound."""


def strengths_of(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By stream; for sound None and 0 mean the picture's, as upstream."""
    picture = {name: model.argument(call, name) for name in STRENGTHS}
    return {"x": picture, "audio": {n: model.argument(call, f"audio_{n}") or own for n, own in picture.items()}}


def switched_on(strengths: Mapping[str, Mapping[str, float]]) -> set[str]:
    """Kinds of guidance that either stream has; the other one's strength then counts too, below its ``OFF`` as well."""
    return {name for name, off in OFF.items() if any(each[name] > off for each in strengths.values())}


def guided(
    x: torch.Tensor, sigma: torch.Tensor, strengths: Mapping[str, float], own: torch.Tensor, others: Tensors
) -> torch.Tensor:
    """Velocity (B, tokens, C), led away from ``others`` as upstream does it: by predicted data, x - sigma v, rescaled
    to its deviation under the prompt. In upstream's order, because what is rounded here is divided by sigma (B, 1, 1).
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
    """From one call, for every text of (n B, ...) in turn."""
    times = len(text["text_mask"]) // len(t)
    picture, sound = (x[name].to(model.input_dtype).repeat(times, 1, 1) for name in ("x", "audio"))
    outputs = model.pipe.transformer(
        hidden_states=picture,
        audio_hidden_states=sound,
        encoder_hidden_states=text["video_text"].to(picture.dtype),
        audio_encoder_hidden_states=text["audio_text"].to(picture.dtype),
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
