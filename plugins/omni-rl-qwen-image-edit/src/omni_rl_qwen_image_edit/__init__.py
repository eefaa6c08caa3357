"""Qwen-Image-Edit (``QwenImageEditPlusPipeline``, 2509 and later): the velocity of an edit, in batches.

Follows ``diffusers.QwenImageEditPlusPipeline``, which takes one sample a call; the tests hold it to that pipeline. The
pictures' latents are packed like the sample's and stand behind its tokens. Text (read beside the pictures), the
pictures' encoding, schedule and decoding are core's defaults: the pipeline's own, asked once a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

import omni_rl_qwen_image as qwen_image
from omni_rl import hookimpl
from omni_rl.authoring.model import latent_modes, standardised_latents
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import DataError

HONOURED = {"height", "width", "true_cfg_scale", "guidance_scale", "max_sequence_length"}
"""With any other argument the pipeline itself is asked for the velocity."""

AREA = 1024 * 1024
"""Pixels of a sample whose size nobody gives; its shape is the last picture's, as upstream."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """As Qwen-Image: no guidance unless asked for, LoRA on the projections of both branches."""
    found: Mapping[str, Any] = qwen_image.defaults()
    return found


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with true CFG, of a batch whose pictures have equal sizes.

    Raises:
        DataError: there is no picture to edit.
    """
    if call.keys() - HONOURED:
        return None
    vae = model.pipe.vae
    pictures = [standardised_latents(m, vae) for m in latent_modes(conditioning, "vae")]  # (B, C, 1, h, w)
    if not pictures:
        raise DataError("Qwen-Image-Edit edits pictures, and there are none", "data.media: {image: COLUMN}")
    grids = [(1, *_grid(model, conditioning, call)), *((1, p.shape[3] // 2, p.shape[4] // 2) for p in pictures)]
    tokens = torch.cat([_packed(model, p) for p in pictures], dim=1)  # (B, tokens of all pictures, 4 C)
    return {"x": qwen_image.guided_velocity(model, x["x"], grids, t, conditioning, call, beside=tokens)}


def _packed(model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
    """(B, tokens, 4 C), one token per 2 x 2 patch."""
    rows, channels, _, height, width = latents.shape
    return model.pipe._pack_latents(latents, rows, channels, height, width)  # type: ignore[no-any-return]


def _grid(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the sample."""
    patch = model.pipe.vae_scale_factor * 2
    sizes = conditioning["size_of_image"][0]  # (2,) or (n, 2): width, height
    width, height = (sizes if sizes.ndim == 1 else sizes[-1]).tolist()
    width, height = calculate_dimensions(AREA, width / height)
    return int(call.get("height") or height) // patch, int(call.get("width") or width) // patch
