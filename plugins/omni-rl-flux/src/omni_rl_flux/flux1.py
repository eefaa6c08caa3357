"""FLUX.1 (``FluxPipeline``): the velocity for rollout and training.

It follows ``diffusers.FluxPipeline``, and the tests compare it with that pipeline. Latents are packed (B, tokens, 4 C),
one token per 2 x 2 latent patch. Core's defaults take schedule, embeddings and decoding from the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl import hookimpl
from omni_rl.authoring.model import classifier_free, patches, refuse_cut
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors

HONOURED = {"height", "width", "guidance_scale", "true_cfg_scale", "max_sequence_length"}
"""If the call has any other argument, the velocity is computed by the pipeline itself."""

BESIDE = "beside"
"""Key of the packed latents of an input image in the conditioning of :func:`guided_velocity`."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """Steps and guidance of FLUX.1 dev, by the pipeline; LoRA on the attention projections of all blocks."""
    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    return {
        "rollout": {"call": {"guidance_scale": 3.5}},
        "validation": {"steps": 28},
        "model": {"lora": {"targets": targets}},
    }


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Raise an error for a prompt that T5 would cut; otherwise the pipeline encodes it. CLIP gives only a summary,
    which may be cut.

    Raises:
        DataError: a prompt is longer than T5's limit.
    """
    texts, limit = [*prompts, *(negative_prompts or ())], model.argument(call, "max_sequence_length")
    ids = model.pipe.tokenizer_2(texts, verbose=False).input_ids
    refuse_cut(texts, ids, limit, ", or set rollout.call.max_sequence_length (at most 512)")


def _grid(model: LoadedModel, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the image."""
    pipe = model.pipe
    return patches(call, default=pipe.default_sample_size * pipe.vae_scale_factor, patch=pipe.vae_scale_factor * 2)


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of packed latents: (tokens, 4 C).

    Raises:
        ConfigError: the pipeline would round the size.
    """
    rows, columns = _grid(model, call)
    return {"x": (rows * columns, model.pipe.transformer.config.in_channels)}


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity; with classifier-free guidance if there is a negative prompt and ``true_cfg_scale`` is above 1."""
    if call.keys() - HONOURED:
        return None
    return guided_velocity(model, x, t, conditioning, call, [_grid(model, call)])


def guided_velocity(
    model: LoadedModel,
    x: Streams,
    t: torch.Tensor,
    conditioning: Tensors,
    call: Mapping[str, Any],
    grids: Sequence[tuple[int, int]],
) -> Streams:
    """Velocity (B, tokens, 4 C) of x (B, tokens, 4 C) at t (B,).

    Args:
        conditioning: the prompts' embeddings, and under :data:`BESIDE` input-image tokens (B, more tokens, 4 C), which
            follow the sample's tokens in the denoiser's input and are not denoised.
        grids: rows and columns of latent patches, of the sample and then of the input image.
    """
    transformer = model.pipe.transformer
    positions = torch.cat([_positions(image, *grid) for image, grid in enumerate(grids)]).to(model.device)
    strength = model.argument(call, "guidance_scale") if transformer.config.guidance_embeds else None

    def velocity(x: Streams, t: torch.Tensor, text: Tensors) -> Streams:
        seen = [x["x"], text[BESIDE]] if BESIDE in text else [x["x"]]
        latents = torch.cat(seen, dim=1).to(model.input_dtype)
        embeds = text["prompt_embeds"].to(latents.dtype)  # (B, L, D)
        (output,) = transformer(
            hidden_states=latents,
            timestep=t.to(latents.dtype) / 1000,
            guidance=None if strength is None else torch.full_like(t, strength),
            pooled_projections=text["pooled_prompt_embeds"].to(latents.dtype),
            encoder_hidden_states=embeds,
            txt_ids=positions.new_zeros(embeds.shape[1], 3),
            img_ids=positions,
            return_dict=False,
        )
        return {"x": output[:, : x["x"].shape[1]]}

    scale = model.argument(call, "true_cfg_scale")
    on = scale > 1 and "negative_prompt_embeds" in conditioning
    return classifier_free(velocity, x, t, conditioning, scale, on)


def _positions(image: int, rows: int, columns: int) -> torch.Tensor:
    """Positions (tokens, 3) fp32: the image's number (0 is the sample), row and column of every token."""
    position = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32) for n in (rows, columns)))
    return torch.nn.functional.pad(position, (1, 0), value=image)
