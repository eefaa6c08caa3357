"""FLUX.1 Kontext (``FluxKontextPipeline``): FLUX.1 beside a picture that is to be edited, or from text alone.

Follows ``diffusers.FluxKontextPipeline``; the tests hold it to that pipeline. The picture's latents are packed like the
sample's and stand behind its tokens, numbered 1 where the sample is 0. The picture's encoding, schedule, embeddings and
decoding are core's defaults: the pipeline's own, asked once a prompt.
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
"""With any other argument the pipeline itself is asked for the velocity."""


@hookimpl
def defaults() -> Mapping[str, Any]:
    """As FLUX.1, with the guidance of the model card."""
    return {**flux1.defaults(), "rollout": {"call": {"guidance_scale": 2.5}}}


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> None:
    """As FLUX.1: the pipeline's, but for what its T5 would cut.

    Raises:
        DataError: T5 does not read all of a prompt.
    """
    flux1.encode_prompt(model, prompts, negative_prompts, call)


@hookimpl
def prepare_latents(model: LoadedModel, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Packed latents: (tokens, 4 C).

    Raises:
        ConfigError: the pipeline would draw another size than the one asked for.
    """
    rows, columns = _grid(model, call)
    return {"x": (rows * columns, model.pipe.transformer.config.in_channels)}


@hookimpl
def predict(
    model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Streams | None:
    """Velocity as FLUX.1's, of a batch whose pictures have equal sizes or that has none."""
    if call.keys() - HONOURED:
        return None
    text = {n: v for n, v in conditioning.items() if not is_stand_in(n)}
    grids, pictures = [_grid(model, call)], latent_modes(conditioning, "vae")  # (B, C, h, w)
    if pictures:
        (picture,) = pictures
        grids.append((picture.shape[2] // 2, picture.shape[3] // 2))
        text[flux1.BESIDE] = _packed(model, picture)
    return flux1.guided_velocity(model, x, t, text, call, grids)


def _packed(model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
    """(B, tokens, 4 C) in the denoiser's scale, one token per 2 x 2 patch."""
    config = model.pipe.vae.config
    scaled = (latents - config.shift_factor) * config.scaling_factor
    return model.pipe._pack_latents(scaled, *scaled.shape)  # type: ignore[no-any-return]


def _grid(model: LoadedModel, call: Mapping[str, Any]) -> tuple[int, int]:
    """Latent patches (rows, columns) of the sample.

    The pipeline keeps the shape that it is asked for and changes the size to ``max_area`` pixels, in whole patches.
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
