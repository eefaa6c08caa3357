"""``AuraFlowPipeline``: the velocity for rollout and training.

It follows ``diffusers.AuraFlowPipeline``, and the tests compare it with that pipeline. Without this package, the
universal adapter computes every velocity with that pipeline. Write a plugin if it is faster, or adds a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omni_rl import hookimpl
from omni_rl.contracts import LoadedModel, Streams, Tensors


@hookimpl
def defaults() -> Mapping[str, Any]:
    """The pipeline's own guidance, and the attention projections for LoRA."""
    return {
        "rollout": {"call": {"guidance_scale": 3.5}},
        "model": {"lora": {"targets": ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]}},
    }


@hookimpl
def predict(model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """Velocity with classifier-free guidance, v = v_neg + g (v_pos - v_neg); no guidance for g <= 1.

    x: (B, C, H, W) latents; t: (B,) in 0..1000; ``prompt_embeds`` and ``negative_prompt_embeds``: (B, L, D).
    """
    scale = call.get("guidance_scale", 3.5)
    if scale <= 1:
        return {"x": _velocity(model, x["x"], t, conditioning["prompt_embeds"])}
    embeds = torch.cat([conditioning["negative_prompt_embeds"], conditioning["prompt_embeds"]])  # (2 B, L, D)
    both = _velocity(model, torch.cat([x["x"]] * 2), torch.cat([t] * 2), embeds)
    negative, positive = both.chunk(2)  # each (B, C, H, W)
    return {"x": negative + scale * (positive - negative)}


def _velocity(model: LoadedModel, latents: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    latents = latents.to(model.input_dtype)
    velocity: torch.Tensor = model.pipe.transformer(
        latents,
        encoder_hidden_states=embeds.to(latents.dtype),
        timestep=(t / 1000).to(latents.dtype),
        return_dict=False,
    )[0]
    return velocity
