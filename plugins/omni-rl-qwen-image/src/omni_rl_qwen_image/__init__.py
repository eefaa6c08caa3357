"""Qwen-Image (``QwenImagePipeline``): prompts, velocity and decoding for rollout and training.

It follows ``diffusers.QwenImagePipeline`` (template, removal of its prefix, true CFG with preserved norm, latent
packing), and the tests compare it with that pipeline. Latents are packed (B, tokens, 4 C), one token per 2 x 2 latent
patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from omni_rl import hookimpl
from omni_rl.authoring.model import patches
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import SigmaTable, Streams, Tensors
from omni_rl.errors import ConfigError, DataError

MAX_TOKENS = 1024  # after the template's prefix; upstream's tokenizer_max_length
KEPT_TOKENS = 512  # of these by upstream's __call__, unless its max_sequence_length says otherwise


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Guidance is off by default; LoRA on the attention and MLP projections of both branches."""
    attention = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    mlps = ["img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"]
    return {"rollout": {"call": {"true_cfg_scale": 1.0}}, "model": {"lora": {"targets": attention + mlps}}}


@hookimpl
def tokenize(model: LoadedModel, prompts: Sequence[str]) -> Tensors:
    """Prompts in the template, with its prefix: ``prompt_ids`` and ``prompt_ids_mask`` (B, L) int64."""
    pipe, prefix = model.pipe, model.pipe.prompt_template_encode_start_idx
    texts = [pipe.prompt_template_encode.format(prompt) for prompt in prompts]
    tokens = pipe.tokenizer(texts, padding=True, return_tensors="pt")
    lengths = tokens.attention_mask.sum(1) - prefix
    for prompt, length in zip(prompts, lengths.tolist(), strict=True):
        if length > MAX_TOKENS:
            raise DataError(
                f"Qwen-Image takes {MAX_TOKENS} tokens, not {length}: {prompt[:60]!r}...", "shorten the prompt"
            )
    return {"prompt_ids": tokens.input_ids, "prompt_ids_mask": tokens.attention_mask}


@hookimpl
def encode_prompt(model: LoadedModel, tokens: Tensors, call: Mapping[str, Any]) -> Tensors:
    """Last hidden states without the template's prefix: ``prompt_embeds`` (B, L, D) and mask (B, L), padded on the
    right.

    Raises:
        DataError: the pipeline would cut a prompt.
    """
    ids, mask = tokens["prompt_ids"].to(model.device), tokens["prompt_ids_mask"].to(model.device)
    prefix = model.pipe.prompt_template_encode_start_idx
    with model.encoders_on_device():
        output = model.pipe.text_encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    rows = [h[m.bool()][prefix:] for h, m in zip(output.hidden_states[-1], mask, strict=True)]
    embeds = pad_sequence(rows, batch_first=True)  # (B, L, D)
    real = pad_sequence([torch.ones_like(r[:, 0], dtype=torch.long) for r in rows], batch_first=True)  # (B, L)
    kept = call.get("max_sequence_length", KEPT_TOKENS)
    if embeds.shape[1] > kept:
        raise DataError(
            f"a prompt has {embeds.shape[1]} tokens, and the pipeline keeps {kept} of them",
            f"shorten the prompt, or set rollout.call.max_sequence_length (at most {MAX_TOKENS})",
        )
    return {"prompt_embeds": embeds, "prompt_embeds_mask": real}


def _grid(model: LoadedModel, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the image."""
    pipe = model.pipe
    return patches(call, default=pipe.default_sample_size * pipe.vae_scale_factor, patch=pipe.vae_scale_factor * 2)


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of packed latents: (tokens, 4 C)."""
    rows, columns = _grid(model, call)
    return {"x": (rows * columns, model.pipe.transformer.config.in_channels)}


@hookimpl
def set_timesteps(model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]]) -> dict[str, SigmaTable]:
    """The schedule of the pipeline's scheduler, shifted by the number of tokens."""
    scheduler = type(model.pipe.scheduler).from_config(model.pipe.scheduler.config)
    config = scheduler.config
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    slope = (config.get("max_shift", 1.15) - config.get("base_shift", 0.5)) / (high - low)
    mu = shapes["x"][0] * slope + (config.get("base_shift", 0.5) - slope * low)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return {"x": SigmaTable(scheduler.timesteps.float(), scheduler.sigmas.float())}


@hookimpl
def predict(model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """Velocity; with true CFG, the guided velocity of each token keeps the norm of the conditional one."""
    return {"x": guided_velocity(model, x["x"], [(1, *_grid(model, call))], t, conditioning, call)}


def guided_velocity(
    model: LoadedModel,
    x: torch.Tensor,
    grids: Sequence[tuple[int, int, int]],
    t: torch.Tensor,
    conditioning: Tensors,
    call: Mapping[str, Any],
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """Velocity (B, tokens, 4 C) of x (B, tokens, 4 C).

    Args:
        grids: frames, rows and columns of latent patches, of the sample and of every image in ``beside``.
        beside: input-image tokens (B, more tokens, 4 C), which follow the sample's tokens and are not denoised.
    """
    latents = (x if beside is None else torch.cat([x, beside], dim=1)).to(model.input_dtype)

    def velocity(sign: str) -> torch.Tensor:
        output = model.pipe.transformer(
            hidden_states=latents,
            timestep=t.to(latents.dtype) / 1000,
            encoder_hidden_states=conditioning[f"{sign}prompt_embeds"].to(latents.dtype),
            encoder_hidden_states_mask=_mask(conditioning, sign),
            img_shapes=[list(grids)] * len(t),
            guidance=_guidance(model, call, len(t)),
            return_dict=False,
        )
        return output[0][:, : x.shape[1]]  # type: ignore[no-any-return]

    positive = velocity("")  # (B, tokens, 4 C)
    scale = call.get("true_cfg_scale", 1.0)
    if scale <= 1 or "negative_prompt_embeds" not in conditioning:
        return positive
    negative = velocity("negative_")
    guided = negative + scale * (positive - negative)
    kept: torch.Tensor = guided * (positive.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    return kept


def _mask(conditioning: Tensors, sign: str) -> torch.Tensor | None:
    """None when no token is padding, as upstream: attention without a mask is faster and differs in the last bits."""
    mask = conditioning[f"{sign}prompt_embeds_mask"]
    return None if bool(mask.all()) else mask


def _guidance(model: LoadedModel, call: Mapping[str, Any], rows: int) -> torch.Tensor | None:
    if not model.pipe.transformer.config.guidance_embeds:
        return None
    if "guidance_scale" not in call:
        raise ConfigError("rollout.call.guidance_scale: this model is guidance-distilled and needs it", "try 3.5")
    return torch.full((rows,), call["guidance_scale"], device=model.device, dtype=torch.float32)


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, call: Mapping[str, Any]) -> Tensors:
    """Decode to ``image`` (B, 3, H, W) in [0, 1]."""
    pipe, config = model.pipe, model.pipe.vae.config
    rows, columns = _grid(model, call)
    patch = pipe.vae_scale_factor * 2
    x = latents["x"].to(pipe.vae.dtype)
    unpacked = pipe._unpack_latents(x, rows * patch, columns * patch, pipe.vae_scale_factor)  # (B, C, 1, h, w)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(x) for v in (config.latents_mean, config.latents_std))
    with model.encoders_on_device():
        pixels = pipe.vae.decode(unpacked * std + mean, return_dict=False)[0][:, :, 0]
    return {"image": pixels.float() / 2 + 0.5}
