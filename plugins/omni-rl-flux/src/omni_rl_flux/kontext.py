"""FLUX.1 Kontext (``FluxKontextPipeline``): the velocity of FLUX.1 with an image to edit, or from text alone.

It follows ``diffusers.FluxKontextPipeline``, and the tests compare it with that pipeline. The image's latents are
packed like the sample's and follow its tokens, with image number 1 instead of 0. Core's defaults take the image's
encoding, schedule, embeddings and decoding from the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl import hookimpl
from omni_rl.authoring.model import is_stand_in, latent_modes
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ConfigError
from omni_rl_flux import flux1

HONOURED = flux1.HONOURED | {"max_area", "_auto_resize"}
"""If the call has any other argument, the velocity is computed by the pipeline itself."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """As FLUX.1, with the guidance of the model card."""
    return {**flux1.defaults(), "rollout": {"call": {"guidance_scale": 2.5}}}


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """Raise an error for a prompt that T5 would cut; otherwise the pipeline encodes it.

    Raises:
        DataError: a prompt is longer than T5's limit.
    """
    flux1.encode_prompt(model, prompts, negative_prompts, call)


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of packed latents: (tokens, 4 C).

    Raises:
        ConfigError: the pipeline would change the size.
    """
    rows, columns = _grid(model, call)
    return {"x": (rows * columns, model.pipe.transformer.config.in_channels)}


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity, computed as for FLUX.1. The images of a batch have equal sizes, or the batch has none."""
    if call.keys() - HONOURED:
        return None
    text = {n: v for n, v in conditioning.items() if not is_stand_in(n)}
    grids, images = [_grid(model, call)], latent_modes(conditioning, "vae")  # (B, C, h, w)
    if images:
        (image,) = images
        grids.append((image.shape[2] // 2, image.shape[3] // 2))
        text[flux1.BESIDE] = _packed(model, image)
    return flux1.guided_velocity(model, x, t, text, call, grids)


def _packed(model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
    """Packed latents (B, tokens, 4 C) in the denoiser's scale, one token per 2 x 2 patch."""
    config = model.pipe.vae.config
    scaled = (latents - config.shift_factor) * config.scaling_factor
    return model.pipe._pack_latents(scaled, *scaled.shape)  # type: ignore[no-any-return]


def _grid(model: LoadedModel, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the sample.

    The pipeline keeps the aspect ratio of the configured size and changes the size to ``max_area`` pixels, in whole
    patches.
    """
    patch, default = model.pipe.vae_scale_factor * 2, model.pipe.default_sample_size * model.pipe.vae_scale_factor
    height, width = (call.get(name) or default for name in ("height", "width"))
    area, shape = model.argument(call, "max_area"), width / height
    rows, columns = (round(side**0.5) // patch for side in (area / shape, area * shape))
    made = {"height": rows * patch, "width": columns * patch}
    if any(call.get(name) not in (None, pixels) for name, pixels in made.items()):
        near = [max(side // patch, 1) * patch for side in (height, width)]
        what = "rollout.call: the pipeline changes height {} and width {} to {} and {}, to fill max_area {}"
        hint = "try height: {}, width: {}, max_area: {}"
        raise ConfigError(what.format(height, width, *made.values(), area), hint.format(*near, near[0] * near[1]))
    return rows, columns
