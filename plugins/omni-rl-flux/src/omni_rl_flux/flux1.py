"""FLUX.1 (``FluxPipeline``): the velocity, stated once for rollout and training.

Follows ``diffusers.FluxPipeline``; the tests hold it to that pipeline. Latents are packed (B, tokens, 4 C), one token
per 2 x 2 latent patch. Schedule, embeddings and decoding are core's defaults: the pipeline's own, asked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl import hookimpl
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.model.guidance import classifier_free
from omni_rl.model.limits import patches, refuse_cut

HONOURED = {"height", "width", "guidance_scale", "true_cfg_scale", "max_sequence_length"}
"""With any other argument the pipeline itself is asked for the velocity."""

BESIDE = "beside"
"""Among the conditioning of :func:`guided_velocity`: packed latents of a picture."""


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
    """Leaves the encoding to the pipeline, but for what its T5 would cut; CLIP gives no more than a summary.

    Raises:
        DataError: T5 does not read all of a prompt.
    """
    texts, limit = [*prompts, *(negative_prompts or ())], model.argument(call, "max_sequence_length")
    ids = model.pipe.tokenizer_2(texts, verbose=False).input_ids
    refuse_cut(texts, ids, limit, ", or set rollout.call.max_sequence_length (at most 512)")


def _grid(model: LoadedModel, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the picture."""
    pipe = model.pipe
    return patches(call, default=pipe.default_sample_size * pipe.vae_scale_factor, patch=pipe.vae_scale_factor * 2)


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Packed latents: (tokens, 4 C).

    Raises:
        ConfigError: the pipeline would round the size.
    """
    rows, columns = _grid(model, call)
    return {"x": (rows * columns, model.pipe.transformer.config.in_channels)}


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity; classifier-free guidance where ``true_cfg_scale`` and a negative prompt ask for it."""
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
    """(B, tokens, 4 C) of x (B, tokens, 4 C) at t (B,).

    Args:
        conditioning: the prompts' embeddings, and under :data:`BESIDE` tokens (B, more tokens, 4 C) that the denoiser
            sees behind the sample's and nobody steps.
        grids: rows and columns of latent patches, of the sample and then of the picture beside it.
    """
    transformer = model.pipe.transformer
    places = torch.cat([_places(picture, *grid) for picture, grid in enumerate(grids)]).to(model.device)
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
            txt_ids=places.new_zeros(embeds.shape[1], 3),
            img_ids=places,
            return_dict=False,
        )
        return {"x": output[:, : x["x"].shape[1]]}

    scale = model.argument(call, "true_cfg_scale")
    on = scale > 1 and "negative_prompt_embeds" in conditioning
    return classifier_free(velocity, x, t, conditioning, scale, on)


def _places(picture: int, rows: int, columns: int) -> torch.Tensor:
    """(tokens, 3) fp32: the picture's number (0 is the sample), row and column of every token."""
    place = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32) for n in (rows, columns)))
    return torch.nn.functional.pad(place, (1, 0), value=picture)
