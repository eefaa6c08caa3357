"""LTX-2 (``LTX2Pipeline``), video with sound from text: the velocity, stated once for rollout and training.

Follows ``diffusers.LTX2Pipeline``; the tests hold it to that pipeline. Latents are packed, one token per place of the
autoencoders' grids: ``x`` (B, F h w, C) and ``audio`` (B, L, C). What the connectors make of the text is computed once
and kept in place of the text encoder's hidden states, all 49 of which the pipeline passes through them in every call.
Schedule and decoding are the pipeline's own, asked with a blank text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import rescale_noise_cfg
from diffusers.pipelines.ltx2.utils import DEFAULT_NEGATIVE_PROMPT

from omni_rl import hookimpl
from omni_rl.model import universal
from omni_rl.model.guidance import NEGATIVE, negative, positive
from omni_rl.model.loaded import LoadedModel
from omni_rl.model.prompts import refuse_cut
from omni_rl.model.sizes import latent_frames, patches
from omni_rl.types import SigmaTable, Streams, Tensors

GUIDANCE = ("guidance_scale", "stg_scale", "modality_scale", "guidance_rescale")
HONOURED = {"height", "width", "num_frames", "frame_rate", "max_sequence_length", "use_cross_timestep"} | {
    *GUIDANCE, *(f"audio_{name}" for name in GUIDANCE), "spatio_temporal_guidance_blocks"
}  # fmt: skip
"""With any other argument the pipeline itself is asked for the velocity, and for the text as it takes it."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Size, steps and negative prompt of the published inference code, whose guidance is the pipeline's default; LoRA
    on the projections of all attentions and MLPs, those between picture and sound included.
    """
    call = {"height": 512, "width": 768, "num_frames": 121, "frame_rate": 24.0}
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    return {
        "rollout": {"call": {**call, "negative_prompt": DEFAULT_NEGATIVE_PROMPT}},
        "validation": {"steps": 30},
        "model": {"lora": {"targets": [*targets, "audio_ff.net.0.proj", "audio_ff.net.2"]}},
    }


class Scales(NamedTuple):
    """Guidance of one stream, as ``__call__`` names its strengths."""

    text: float
    perturbed: float
    modality: float
    rescale: float


def _scales(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, Scales]:
    """By stream; sound is guided as the picture is, where it is given no strength of its own."""
    picture = [model.argument(call, name) for name in GUIDANCE]
    sound = [model.argument(call, f"audio_{name}") or own for name, own in zip(GUIDANCE, picture, strict=True)]
    return {"x": Scales(*picture), "audio": Scales(*sound)}


def _guided(model: LoadedModel, call: Mapping[str, Any]) -> bool:
    return any(scales.text > 1 for scales in _scales(model, call).values())


def _honours(call: Mapping[str, Any]) -> bool:
    """Without a number of frames some checkpoints choose one."""
    return not call.keys() - HONOURED and call.get("num_frames") is not None


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> Tensors | None:
    """The connectors' answers: ``video_text`` (B, L, D), ``audio_text`` (B, L, D'), ``text_mask`` (B, L).

    Raises:
        DataError: the text encoder does not read all of a prompt.
    """
    pipe, limit = model.pipe, model.argument(call, "max_sequence_length")
    guided = any(scales.text > 1 for scales in _scales(model, call).values())
    texts = {"": list(prompts)} | ({NEGATIVE: list(negative_prompts or [""] * len(prompts))} if guided else {})
    found: Tensors = {}
    for sign, each in texts.items():
        ids = pipe.tokenizer(each, verbose=False).input_ids
        refuse_cut(each, ids, limit, ", or set rollout.call.max_sequence_length")
        if _honours(call):
            found |= {f"{sign}{name}": value for name, value in _connected(model, each, limit).items()}
    return found or None


def _connected(model: LoadedModel, texts: list[str], limit: int) -> Tensors:
    with model.encoders_on_device():
        encoded = model.pipe.encode_prompt(
            texts, do_classifier_free_guidance=False, max_sequence_length=limit, device=model.device
        )
        embeds, mask = encoded[0].to(model.input_dtype), encoded[1]
        with model.compute():
            answers = model.pipe.connectors(embeds, mask, padding_side=model.pipe.tokenizer.padding_side)
    return dict(zip(("video_text", "audio_text", "text_mask"), answers, strict=True))


def _blank(model: LoadedModel, rows: int) -> Tensors:
    """Text as the pipeline takes it, for questions whose answers do not depend on it."""
    config = model.pipe.connectors.config
    registers = (config.video_connector_num_learnable_registers, config.audio_connector_num_learnable_registers)
    length, width = math.lcm(*(n or 1 for n in registers)), config.caption_channels * config.text_proj_in_factor
    zero = torch.zeros(1, 1, 1, device=model.device)
    text = {"prompt_embeds": zero.expand(rows, length, width), "prompt_attention_mask": 1 + zero[0].expand(rows, length)}
    return text | {f"{NEGATIVE}{name}": value for name, value in text.items()}


def _sizes(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, int]:
    """Latent places, as the transformer takes them.

    Raises:
        ConfigError: the pipeline would refuse the size or round the number of frames.
    """
    pipe, frames = model.pipe, call["num_frames"]
    size = {name: model.argument(call, name) for name in ("height", "width")}
    patches(size, default=0, patch=32)
    mels = pipe.audio_sampling_rate / pipe.audio_hop_length / float(pipe.audio_vae_temporal_compression_ratio)
    return {
        "num_frames": latent_frames(frames, pipe.vae_temporal_compression_ratio),
        **{name: pixels // pipe.vae_spatial_compression_ratio for name, pixels in size.items()},
        "audio_num_frames": round(frames / model.argument(call, "frame_rate") * mels),
    }


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Packed: (F h w, C) and (L, C).

    Raises:
        ConfigError: see above.
    """
    if not _honours(call):
        return None
    sizes, config = _sizes(model, call), model.pipe.transformer.config
    tokens = sizes["num_frames"] * sizes["height"] * sizes["width"]
    return {"x": (tokens, config.in_channels), "audio": (sizes["audio_num_frames"], config.audio_in_channels)}


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], call: Mapping[str, Any]
) -> SigmaTable | None:
    """Of the pipeline's own scheduler, whose shift depends on the number of picture tokens."""
    if not _honours(call):
        return None
    return universal.set_timesteps(model=model, steps=steps, shapes=shapes, conditioning=_blank(model, 1), call=call)


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, call: Mapping[str, Any]) -> Tensors | None:
    """``video`` and ``audio``, by the pipeline's own decoders."""
    if not _honours(call):
        return None
    text = _blank(model, len(latents["x"]))
    return universal.decode_latents(model=model, latents=latents, conditioning=text, call=call)


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with guidance away from the negative prompt, from perturbed attention (STG), and from streams that do
    not see each other. It acts on predicted data, x - sigma v, and may be rescaled to their deviation.
    """
    if not _honours(call):
        return None
    scales, text = _scales(model, call), positive(conditioning)
    without = perturbed = isolated = None
    if any(s.text > 1 for s in scales.values()):
        both = {n: torch.cat([v, text[n]]) for n, v in negative(conditioning).items()}
        without, own = _velocities(model, x, t, both, call)
    else:
        (own,) = _velocities(model, x, t, text, call)
    if any(s.perturbed > 0 for s in scales.values()) and model.pipe.transformer.config.perturbed_attn:
        blocks = {"spatio_temporal_guidance_blocks": model.argument(call, "spatio_temporal_guidance_blocks")}
        (perturbed,) = _velocities(model, x, t, text, call, **blocks)
    if any(s.modality > 1 for s in scales.values()):
        (isolated,) = _velocities(model, x, t, text, call, isolate_modalities=True)
    sigma = (t / model.pipe.scheduler.config.num_train_timesteps).view(-1, 1, 1)
    return {n: _guided(v, sigma, scales[n], *(b and b[n] for b in (own, without, perturbed, isolated))) for n, v in x.items()}


def _velocities(
    model: LoadedModel, x: Streams, t: torch.Tensor, text: Tensors, call: Mapping[str, Any], **how: Any
) -> list[Streams]:
    """From one call, for every text of ``text`` (n B, ...) in turn."""
    times = len(text["text_mask"]) // len(t)
    latents, sound = (x[name].to(model.input_dtype).repeat(times, 1, 1) for name in ("x", "audio"))
    outputs = model.pipe.transformer(
        hidden_states=latents,
        audio_hidden_states=sound,
        encoder_hidden_states=text["video_text"].to(latents.dtype),
        audio_encoder_hidden_states=text["audio_text"].to(latents.dtype),
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
    return [{"x": picture, "audio": sound} for picture, sound in parts]


def _guided(
    x: torch.Tensor,
    sigma: torch.Tensor,
    scales: Scales,
    own: torch.Tensor,
    without: torch.Tensor | None,
    perturbed: torch.Tensor | None,
    isolated: torch.Tensor | None,
) -> torch.Tensor:
    """In the order of upstream's additions: the data is divided by sigma again, which shows what was rounded."""
    data = guided = x - own * sigma
    strengths = (scales.text - 1, scales.perturbed, scales.modality - 1)
    for strength, other in zip(strengths, (without, perturbed, isolated), strict=True):
        if other is not None:
            guided = guided + strength * (data - (x - other * sigma))
    if scales.rescale > 0:
        guided = rescale_noise_cfg(guided, data, scales.rescale)
    return (x - guided) / sigma
