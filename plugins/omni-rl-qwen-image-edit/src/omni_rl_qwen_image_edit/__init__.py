"""Qwen-Image-Edit (``QwenImageEditPlusPipeline``, 2509 and later): the velocity of an edit, in batches.

It follows ``diffusers.QwenImageEditPlusPipeline``, which takes one sample per call; the tests compare it with that
pipeline. The images' latents are packed like the sample's and follow its tokens. Core's defaults take text (encoded
together with the images), the images' encoding, schedule and decoding from the pipeline, once per prompt.
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
"""If the call has any other argument, the velocity is computed by the pipeline itself."""

AREA = 1024 * 1024
"""Pixels of a sample without a configured size; its aspect ratio is that of the last image, as in the pipeline."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """As Qwen-Image: guidance is off by default, LoRA on the projections of both branches."""
    found: Mapping[str, Any] = qwen_image.defaults()
    return found


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity with true CFG; the images of a batch have equal sizes.

    Raises:
        DataError: there is no image to edit.
    """
    if call.keys() - HONOURED:
        return None
    vae = model.pipe.vae
    images = [standardised_latents(m, vae) for m in latent_modes(conditioning, "vae")]  # (B, C, 1, h, w)
    if not images:
        raise DataError("Qwen-Image-Edit needs an image to edit, and there is none", "data.media: {image: COLUMN}")
    grids = [(1, *_grid(model, conditioning, call)), *((1, p.shape[3] // 2, p.shape[4] // 2) for p in images)]
    tokens = torch.cat([_packed(model, p) for p in images], dim=1)  # (B, tokens of all images, 4 C)
    return {"x": qwen_image.guided_velocity(model, x["x"], grids, t, conditioning, call, beside=tokens)}


def _packed(model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
    """Packed latents (B, tokens, 4 C), one token per 2 x 2 patch."""
    rows, channels, _, height, width = latents.shape
    return model.pipe._pack_latents(latents, rows, channels, height, width)  # type: ignore[no-any-return]


def _grid(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the sample."""
    patch = model.pipe.vae_scale_factor * 2
    sizes = conditioning["size_of_image"][0]  # (2,) or (n, 2): width, height
    width, height = (sizes if sizes.ndim == 1 else sizes[-1]).tolist()
    width, height = calculate_dimensions(AREA, width / height)
    return int(call.get("height") or height) // patch, int(call.get("width") or width) // patch
