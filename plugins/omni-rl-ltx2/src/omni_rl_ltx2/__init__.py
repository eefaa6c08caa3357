"""LTX-2 (``LTX2Pipeline``), video with sound from text: the velocity, stated once for rollout and training.

Follows ``diffusers.LTX2Pipeline``; the tests hold it to that pipeline. Latents are packed, one token per place of the
autoencoders' grids: ``x`` (B, F h w, C) and ``audio`` (B, L, C). What the connectors make of the text is computed once
and kept in place of the text encoder's hidden states, all 49 of which the pipeline passes through them in every call.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift, rescale_noise_cfg
from diffusers.pipelines.ltx2.utils import DEFAULT_NEGATIVE_PROMPT as NEGATIVE_PROMPT

from omni_rl import hookimpl
from omni_rl.media import RATE
from omni_rl.model.guidance import NEGATIVE, negative, positive
from omni_rl.model.loaded import LoadedModel
from omni_rl.model.prompts import refuse_cut
from omni_rl.model.sizes import latent_frames, patches
from omni_rl.types import SigmaTable, Streams, Tensors

OFF = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
"""Where each kind of guidance is off: from the negative prompt, perturbed attention (STG), and isolated streams."""

STRENGTHS = (*OFF, "guidance_rescale")
"""Each for the picture, and with ``audio_`` before it for the sound."""

HONOURED = {"height", "width", "num_frames", "frame_rate", "max_sequence_length", "use_cross_timestep"} | {
    "spatio_temporal_guidance_blocks", *STRENGTHS, *(f"audio_{name}" for name in STRENGTHS)
}  # fmt: skip
"""With any other argument the pipeline itself is asked, from the text to the media."""


def _honours(call: Mapping[str, Any]) -> bool:
    """Some checkpoints choose their number of frames; without blocks to perturb the pipeline may refuse the call."""
    chosen = call.get("num_frames") and call.get("spatio_temporal_guidance_blocks", True)
    return bool(chosen) and not call.keys() - HONOURED


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Size, steps and negative prompt of the published inference code, whose guidance is the pipeline's own default;
    LoRA on the projections of all attentions and MLPs, those between picture and sound included.
    """
    call = {"height": 512, "width": 768, "num_frames": 121, "frame_rate": 24.0, "negative_prompt": NEGATIVE_PROMPT}
    mlp = [f"{stream}ff.net.{layer}" for stream in ("", "audio_") for layer in ("0.proj", "2")]
    targets = ["to_q", "to_k", "to_v", "to_out.0", *mlp]
    return {"rollout": {"call": call}, "validation": {"steps": 30}, "model": {"lora": {"targets": targets}}}


def _strengths(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By stream; for sound None and 0 mean the picture's, as upstream."""
    picture = {name: model.argument(call, name) for name in STRENGTHS}
    return {"x": picture, "audio": {n: model.argument(call, f"audio_{n}") or own for n, own in picture.items()}}


def _on(strengths: Mapping[str, Mapping[str, float]]) -> set[str]:
    """Kinds of guidance that either stream has; the other one's strength then counts too, below its ``OFF`` as well."""
    return {name for name, off in OFF.items() if any(each[name] > off for each in strengths.values())}


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> Tensors | None:
    """The connectors' answers: ``video_text`` (B, L, D), ``audio_text`` (B, L, D'), ``text_mask`` (B, L).

    Raises:
        DataError: the text encoder does not read all of a prompt.
    """
    texts, limit = {"": list(prompts)}, model.argument(call, "max_sequence_length")
    if "guidance_scale" in _on(_strengths(model, call)):
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


def _sizes(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, int]:
    """Latent places as the transformer takes them: frames, height, width, length of the sound.

    Raises:
        ConfigError: the pipeline would refuse the size or round the number of frames.
    """
    pipe, frames = model.pipe, call["num_frames"]
    size = {name: model.argument(call, name) for name in ("height", "width")}
    patches(size, default=0, patch=32)
    a_second = pipe.audio_sampling_rate / pipe.audio_hop_length / float(pipe.audio_vae_temporal_compression_ratio)
    return {
        "num_frames": latent_frames(frames, pipe.vae_temporal_compression_ratio),
        **{name: pixels // pipe.vae_spatial_compression_ratio for name, pixels in size.items()},
        "audio_num_frames": round(frames / model.argument(call, "frame_rate") * a_second),
    }


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """(F h w, C) and (L, C).

    Raises:
        ConfigError: see ``_sizes``.
    """
    if not _honours(call):
        return None
    (*grid, length), config = _sizes(model, call).values(), model.pipe.transformer.config
    return {"x": (math.prod(grid), config.in_channels), "audio": (length, config.audio_in_channels)}


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], call: Mapping[str, Any]
) -> SigmaTable | None:
    """Of the pipeline's scheduler, whose shift depends on the number of the picture's tokens."""
    if not _honours(call):
        return None
    scheduler = copy.deepcopy(model.pipe.scheduler)
    published = {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "base_shift": 0.95, "max_shift": 2.05}
    line = (scheduler.config.get(name, value) for name, value in published.items())
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(shapes["x"][0], *line))
    return SigmaTable(scheduler.timesteps.float().cpu(), scheduler.sigmas.float().cpu())


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with every kind of guidance that is on."""
    if not _honours(call):
        return None
    strengths, text = _strengths(model, call), positive(conditioning)
    on, branches = _on(strengths), dict[str, Streams]()  # what to be led away from, by its strength's name
    if "guidance_scale" in on:
        both = {name: torch.cat([v, text[name]]) for name, v in negative(conditioning).items()}
        branches["guidance_scale"], own = _velocities(model, x, t, both, call)
    else:
        (own,) = _velocities(model, x, t, text, call)
    if "stg_scale" in on and model.pipe.transformer.config.perturbed_attn:
        blocks = model.argument(call, "spatio_temporal_guidance_blocks")
        (branches["stg_scale"],) = _velocities(model, x, t, text, call, spatio_temporal_guidance_blocks=blocks)
    if "modality_scale" in on:
        (branches["modality_scale"],) = _velocities(model, x, t, text, call, isolate_modalities=True)
    sigma = (t / model.pipe.scheduler.config.num_train_timesteps).view(-1, 1, 1)
    return {n: _guided(x[n], sigma, s, own[n], {b: v[n] for b, v in branches.items()}) for n, s in strengths.items()}


def _guided(
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


def _velocities(
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
        **_sizes(model, call),
        **how,
    )
    parts = zip(*(output.float().chunk(times) for output in outputs), strict=True)
    return [dict(zip(("x", "audio"), each, strict=True)) for each in parts]


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, call: Mapping[str, Any]) -> Tensors | None:
    """``video`` (B, F, 3, H, W) and ``audio`` (B, C, S)."""
    if not _honours(call):
        return None
    pipe, vae, (*places, _) = model.pipe, model.pipe.vae, _sizes(model, call).values()
    with model.encoders_on_device():
        grid = latents["x"].unflatten(1, places).movedim(-1, 1)
        mean, std = (s.view(-1, 1, 1, 1).to(grid) for s in (vae.latents_mean, vae.latents_std))
        grid = (grid * std / vae.config.scaling_factor + mean).to(vae.dtype)  # (B, C, F, h, w)
        clean = grid.new_zeros(len(grid)) if vae.config.timestep_conditioning else None
        video = pipe.video_processor.postprocess_video(vae.decode(grid, clean).sample, output_type="pt")
        heard, sound = pipe.audio_vae, latents["audio"]
        sound = sound * heard.latents_std.to(sound) + heard.latents_mean.to(sound)
        sound = sound.unflatten(2, (heard.config.latent_channels, -1)).transpose(1, 2)  # (B, C, L, mel)
        audio = pipe.vocoder(heard.decode(sound.to(heard.dtype)).sample)
    rates = {"video": model.argument(call, "frame_rate"), "audio": pipe.vocoder.config.output_sampling_rate}
    return {"video": video, "audio": audio, **{k + RATE: torch.full((len(grid),), float(r)) for k, r in rates.items()}}
