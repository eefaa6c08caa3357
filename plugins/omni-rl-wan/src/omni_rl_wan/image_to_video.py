"""Wan 2.1 and 2.2, image to video (``WanImageToVideoPipeline``): the velocity of a video with a conditioning frame.

It follows ``diffusers.WanImageToVideoPipeline``, and the tests compare it with that pipeline. The latents of the
conditioning frames, and a mask that marks them, are additional channels of the denoiser's input. Wan 2.1 also gets CLIP
embeddings of the first frame. With ``expand_timesteps`` (Wan 2.2 5B), the first frame's latents replace those of the
sample, at timestep 0, and are not denoised. Core's defaults take the frames' encoding, schedule, embeddings and
decoding from the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import omni_rl_wan as wan
from omni_rl import hookimpl
from omni_rl.authoring.model import (
    conditioning_from_media,
    encoder_answers,
    is_stand_in,
    latent_modes,
    standardised_latents,
)
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ConfigError, DataError

TEXT_TOKENS = 512
"""With image embeddings, the transformer always takes the last tokens, this many, as text."""

GIVEN = "given"
"""Key of the mask and latents (B, C', F, h, w) of the conditioning frames in the conditioning."""

LAST = "size_of_last_image"


@hookimpl
def defaults() -> Mapping[str, Any]:
    """As for text to video."""
    found: Mapping[str, Any] = wan.defaults()
    return found


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Raise an error for a prompt that would be cut; otherwise the pipeline encodes it.

    Raises:
        ConfigError: with image embeddings, the transformer would take some text tokens for image tokens.
        DataError: a prompt is longer than the text encoder's limit.
    """
    given = model.argument(call, "max_sequence_length")
    if given != TEXT_TOKENS and model.pipe.transformer and model.pipe.transformer.config.added_kv_proj_dim:
        what = f"rollout.call.max_sequence_length: with image embeddings Wan takes {TEXT_TOKENS} tokens, not {given}"
        raise ConfigError(what, "leave it out")
    wan.encode_prompt(model, prompts, negative_prompts, call)


@hookimpl
def prepare_condition(model: LoadedModel, requests: Sequence[Request], call: Mapping[str, Any]) -> Tensors:
    """The encoders' outputs for the conditioning frames; with ``expand_timesteps`` also the mask of the denoised
    frames.

    Raises:
        DataError: there is a last frame, but the model's image embeddings support only a first frame.
    """
    transformer = model.pipe.transformer
    sees_one = transformer and transformer.config.image_dim and not transformer.config.pos_embed_seq_len
    if sees_one and "last_image" in requests[0].media:
        raise DataError("data.media: this Wan takes no last_image", "leave it out, or use Wan2.1-FLF2V or Wan 2.2")
    kept: Tensors = conditioning_from_media(model, requests)
    if kept and model.pipe.config.expand_timesteps:
        frames = wan.latent_shape(model, call)[1]
        sampled = torch.arange(frames) > 0
        kept["mask/x"] = sampled.view(1, 1, -1, 1, 1).expand(len(requests), -1, -1, -1, -1)
    return kept


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape (C, F, h, w).

    Raises:
        ConfigError: the pipeline would round the size or the number of frames.
    """
    return {"x": wan.latent_shape(model, call)}


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity, computed as for text to video; the images of a batch have equal sizes.

    Raises:
        DataError: there is no first frame.
    """
    if call.keys() - wan.HONOURED:
        return None
    latents = [standardised_latents(m, model.pipe.vae) for m in latent_modes(conditioning, "vae")]
    if not latents:
        raise DataError("image to video needs a first frame, and there is none", "data.media: {image: COLUMN}")
    (frames,) = latents  # (B, C, F, h, w), or one frame with expand_timesteps
    kept = {n: v for n, v in conditioning.items() if not is_stand_in(n)}
    for embeds in encoder_answers(conditioning, "encode_image"):  # one call, with all frames, or none
        kept[wan.IMAGE_EMBEDS] = embeds
    if model.pipe.config.expand_timesteps:
        return wan.guided_velocity(model, x, t, {**kept, GIVEN: frames}, call, _first_frame_replaced)
    mask = _mask(frames, model.pipe.vae_scale_factor_temporal, last=LAST in conditioning)
    return wan.guided_velocity(model, x, t, {**kept, GIVEN: torch.cat([mask, frames], dim=1)}, call, _more_channels)


def _mask(latents: torch.Tensor, every: int, last: bool) -> torch.Tensor:
    """Mask (B, every, F, h, w): 1 for conditioning frames; a latent frame holds ``every`` video frames as channels."""
    rows, _, frames, height, width = latents.shape
    mask = latents.new_zeros(rows, every, frames, height, width)
    mask[:, :, 0] = 1  # the first latent frame holds one frame, repeated
    if last:
        mask[:, -1, -1] = 1
    return mask


def _more_channels(latents: torch.Tensor, t: torch.Tensor, given: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([latents, given[GIVEN]], dim=1), t


def _first_frame_replaced(latents: torch.Tensor, t: torch.Tensor, given: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents with the conditioning frame first. t becomes (B, tokens): 0 for the conditioning frame."""
    seen = torch.cat([given[GIVEN], latents[:, :, 1:]], dim=2)
    tokens = torch.ones_like(seen[0, 0, :, ::2, ::2])  # (F, rows, columns)
    tokens[0] = 0
    return seen, t[:, None] * tokens.flatten()
