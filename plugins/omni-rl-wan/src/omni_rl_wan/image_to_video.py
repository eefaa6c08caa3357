"""Wan 2.1 and 2.2, image to video (``WanImageToVideoPipeline``): the velocity of a video whose first frame is given.

Follows ``diffusers.WanImageToVideoPipeline``; the tests hold it to that pipeline. The latents of the given frames and a
mask that tells them from the others are further channels of the denoiser's input; Wan 2.1 also sees the first frame
through CLIP. With ``expand_timesteps`` (Wan 2.2 5B) the first frame's latents stand in the place of the sample's, at
timestep 0: nobody samples them. The frames' encoding, schedule, embeddings and decoding are core's defaults: the
pipeline's own, asked once a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import omni_rl_wan as wan
from omni_rl import hookimpl
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ConfigError, DataError
from omni_rl.universal import hooks as universal
from omni_rl.universal import media_conditioning

TEXT_TOKENS = 512
"""Where there are image embeddings, the transformer takes as many tokens from the end to be text."""

GIVEN = "given"
"""Among the conditioning: mask and latents of the given frames (B, C', F, h, w)."""

LAST = f"{media_conditioning.SIZE}last_image"


@hookimpl
def defaults() -> Mapping[str, Any]:
    """As from text."""
    found: Mapping[str, Any] = wan.defaults()
    return found


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Leaves the encoding to the pipeline, but for what it would cut.

    Raises:
        ConfigError: the transformer would mix text up with image embeddings.
        DataError: the text encoder does not read all of a prompt.
    """
    given = model.argument(call, "max_sequence_length")
    if given != TEXT_TOKENS and model.pipe.transformer and model.pipe.transformer.config.added_kv_proj_dim:
        what = f"rollout.call.max_sequence_length: with image embeddings Wan takes {TEXT_TOKENS} tokens, not {given}"
        raise ConfigError(what, "leave it out")
    wan.encode_prompt(model, prompts, negative_prompts, call)


@hookimpl
def prepare_condition(model: LoadedModel, requests: Sequence[Request], call: Mapping[str, Any]) -> Tensors:
    """What the encoders make of the frames; with ``expand_timesteps`` also the mask of the frames that are sampled.

    Raises:
        DataError: there is a last frame, of which the image embeddings have no place.
    """
    transformer = model.pipe.transformer
    sees_one = transformer and transformer.config.image_dim and not transformer.config.pos_embed_seq_len
    if sees_one and "last_image" in requests[0].media:
        raise DataError("data.media: this Wan takes no last_image", "leave it out, or take Wan2.1-FLF2V or Wan 2.2")
    kept: Tensors = universal.prepare_condition(model, requests)
    if kept and model.pipe.config.expand_timesteps:
        frames = wan.latent_shape(model, call)[1]
        sampled = torch.arange(frames) > 0
        kept["mask/x"] = sampled.view(1, 1, -1, 1, 1).expand(len(requests), -1, -1, -1, -1)
    return kept


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """(C, F, h, w).

    Raises:
        ConfigError: the pipeline would round the size or the number of frames.
    """
    return {"x": wan.latent_shape(model, call)}


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity as from text, of a batch whose pictures have equal sizes.

    Raises:
        DataError: there is no first frame.
    """
    if call.keys() - wan.HONOURED:
        return None
    latents = [
        media_conditioning.standardised(m, model.pipe.vae) for m in media_conditioning.modes(conditioning, "vae")
    ]
    if not latents:
        raise DataError("image to video needs a first frame, and there is none", "data.media: {image: COLUMN}")
    (frames,) = latents  # (B, C, F, h, w), or one frame with expand_timesteps
    kept = {n: v for n, v in conditioning.items() if not media_conditioning.is_stand_in(n)}
    for embeds in media_conditioning.encoded(conditioning, "encode_image"):  # one call, with all frames, or none
        kept[wan.IMAGE_EMBEDS] = embeds
    if model.pipe.config.expand_timesteps:
        return wan.guided_velocity(model, x, t, {**kept, GIVEN: frames}, call, _first_frame_replaced)
    mask = _mask(frames, model.pipe.vae_scale_factor_temporal, last=LAST in conditioning)
    return wan.guided_velocity(model, x, t, {**kept, GIVEN: torch.cat([mask, frames], dim=1)}, call, _more_channels)


def _mask(latents: torch.Tensor, every: int, last: bool) -> torch.Tensor:
    """(B, every, F, h, w): 1 where a frame of the video is given; a latent frame holds ``every`` frames as channels."""
    rows, _, frames, height, width = latents.shape
    mask = latents.new_zeros(rows, every, frames, height, width)
    mask[:, :, 0] = 1  # the first latent frame holds one frame, repeated
    if last:
        mask[:, -1, -1] = 1
    return mask


def _more_channels(latents: torch.Tensor, t: torch.Tensor, given: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([latents, given[GIVEN]], dim=1), t


def _first_frame_replaced(latents: torch.Tensor, t: torch.Tensor, given: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The given frame at timestep 0 before the others at theirs: t becomes (B, tokens)."""
    seen = torch.cat([given[GIVEN], latents[:, :, 1:]], dim=2)
    tokens = torch.ones_like(seen[0, 0, :, ::2, ::2])  # (F, rows, columns)
    tokens[0] = 0
    return seen, t[:, None] * tokens.flatten()
