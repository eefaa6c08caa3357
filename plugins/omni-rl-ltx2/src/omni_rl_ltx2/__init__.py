"""LTX-2 (``LTX2Pipeline``), video with audio from text: the velocity for rollout and training.

It follows ``diffusers.LTX2Pipeline``, and the tests compare it with that pipeline. Latents are packed, one token per
position of the autoencoders' grids: ``x`` (B, F h w, C) and ``audio`` (B, L, C). The outputs of the connectors are
computed once per prompt and stored, instead of all 49 hidden states of the text encoder, which the pipeline passes
through the connectors in every call.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift
from diffusers.pipelines.ltx2.utils import DEFAULT_NEGATIVE_PROMPT as NEGATIVE_PROMPT

from omni_rl import hookimpl
from omni_rl.authoring.model import NEGATIVE, negative, positive, refuse_cut
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import SigmaTable, Streams, Tensors
from omni_rl_ltx2.guidance import STRENGTHS, guided, strengths_of, switched_on, velocities
from omni_rl_ltx2.media import decoded, sizes_of

HONOURED = {"height", "width", "num_frames", "frame_rate", "max_sequence_length", "use_cross_timestep"} | {
    "spatio_temporal_guidance_blocks", *STRENGTHS, *(f"audio_{name}" for name in STRENGTHS)
}  # fmt: skip
"""If the call has any other argument, the pipeline itself computes everything, from text to media."""


def _honours(call: Mapping[str, Any]) -> bool:
    """Whether this module can compute the call. Some checkpoints choose the number of frames themselves, and without
    blocks to perturb the pipeline may reject the call.
    """
    chosen = call.get("num_frames") and call.get("spatio_temporal_guidance_blocks", True)
    return bool(chosen) and not call.keys() - HONOURED


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Size, steps and negative prompt of the published inference code; guidance is the pipeline's default. LoRA on the
    projections of all attention layers and MLPs, also those between video and audio.
    """
    call = {"height": 512, "width": 768, "num_frames": 121, "frame_rate": 24.0, "negative_prompt": NEGATIVE_PROMPT}
    mlp = [f"{stream}ff.net.{layer}" for stream in ("", "audio_") for layer in ("0.proj", "2")]
    targets = ["to_q", "to_k", "to_v", "to_out.0", *mlp]
    return {"rollout": {"call": call}, "validation": {"steps": 30}, "model": {"lora": {"targets": targets}}}


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> Tensors | None:
    """Outputs of the connectors: ``video_text`` (B, L, D), ``audio_text`` (B, L, D'), ``text_mask`` (B, L).

    Raises:
        DataError: a prompt is longer than the text encoder's limit.
    """
    texts, limit = {"": list(prompts)}, model.argument(call, "max_sequence_length")
    if "guidance_scale" in switched_on(strengths_of(model, call)):
        texts[NEGATIVE] = list(negative_prompts or [""] * len(prompts))
    found: Tensors = {}
    for sign, each in texts.items():
        ids = model.pipe.tokenizer(each, verbose=False).input_ids
        refuse_cut(each, ids, limit, ", or set rollout.call.max_sequence_length")
        if _honours(call):
            found |= {f"{sign}{name}": value for name, value in _connected(model, each, limit).items()}
    return found or None


def _connected(model: LoadedModel, texts: list[str], limit: int) -> Tensors:
    options = {"do_classifier_free_guidance": False, "max_sequence_length": limit, "device": model.device}
    with model.encoders_on_device(), model.compute():
        embeds, mask, *_ = model.pipe.encode_prompt(texts, **options)
        answers = model.pipe.connectors(embeds.to(model.input_dtype), mask, padding_side="left")  # set by encode_prompt
    return dict(zip(("video_text", "audio_text", "text_mask"), answers, strict=True))


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Shapes (F h w, C) and (L, C).

    Raises:
        ConfigError: see ``omni_rl_ltx2.media.sizes_of``.
    """
    if not _honours(call):
        return None
    (*grid, length), config = sizes_of(model, call).values(), model.pipe.transformer.config
    return {"x": (math.prod(grid), config.in_channels), "audio": (length, config.audio_in_channels)}


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], call: Mapping[str, Any]
) -> Mapping[str, SigmaTable] | None:
    """Schedules of the pipeline's scheduler, whose shift depends on the number of video tokens."""
    if not _honours(call):
        return None
    scheduler = copy.deepcopy(model.pipe.scheduler)
    published = {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "base_shift": 0.95, "max_shift": 2.05}
    line = (scheduler.config.get(name, value) for name, value in published.items())
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(shapes["x"][0], *line))
    return dict.fromkeys(shapes, SigmaTable(scheduler.timesteps.float().cpu(), scheduler.sigmas.float().cpu()))


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with all kinds of guidance that are on."""
    if not _honours(call):
        return None
    strengths, text = strengths_of(model, call), positive(conditioning)
    on, branches = switched_on(strengths), dict[str, Streams]()  # what to be led away from, by its strength's name
    if "guidance_scale" in on:
        both = {name: torch.cat([v, text[name]]) for name, v in negative(conditioning).items()}
        branches["guidance_scale"], own = velocities(model, x, t, both, call)
    else:
        (own,) = velocities(model, x, t, text, call)
    if "stg_scale" in on and model.pipe.transformer.config.perturbed_attn:
        blocks = model.argument(call, "spatio_temporal_guidance_blocks")
        (branches["stg_scale"],) = velocities(model, x, t, text, call, spatio_temporal_guidance_blocks=blocks)
    if "modality_scale" in on:
        (branches["modality_scale"],) = velocities(model, x, t, text, call, isolate_modalities=True)
    sigma = (t / model.pipe.scheduler.config.num_train_timesteps).view(-1, 1, 1)
    return {n: guided(x[n], sigma, s, own[n], {b: v[n] for b, v in branches.items()}) for n, s in strengths.items()}


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, call: Mapping[str, Any]) -> Tensors | None:
    """Decode to ``video`` (B, F, 3, H, W) and ``audio`` (B, C, S)."""
    return decoded(model, latents, call) if _honours(call) else None
