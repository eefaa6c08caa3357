"""Images and videos that condition a sample, for pipelines that take them as arguments of ``__call__``.

Media are encoded once a prompt: the outputs of autoencoders and image encoders on the way to the first denoiser call
are kept as conditioning, ``encoded_<encoder>_<call>_<tensor>`` (B, ...), beside the media's width and height,
``size_of_<argument>`` (B, 2) or, for a list of n, (B, n, 2). In every later call the pipeline is given blank media of
these sizes, and its encoders return what was kept (:mod:`omni_rl.universal.encoder_outputs`). So neither rollout steps
nor replay encode again, and whatever the pipeline does with the outputs (packing, concatenation, repetition) is its own
code.

Two things reach the denoiser by another way and are kept as they are: the pixels of what no encoder sees (masks),
``pixels_of_<argument>`` (B, [n,] H, W, 3) uint8, and latents that contain the image, ``start_of_<argument>``
(B, ...), see :mod:`omni_rl.universal.image_starts`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from omni_rl.contracts.call import frozen
from omni_rl.contracts.types import Tensors
from omni_rl.errors import ModelError

SIZE = "size_of_"
ENCODED = "encoded_"
PIXELS = "pixels_of_"
START = "start_of_"


class CallKey(NamedTuple):
    """What a pipeline's properties depend on: the sizes of the media it is given, and its arguments."""

    sizes: tuple[tuple[str, str], ...]
    call: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, conditioning: Tensors, call: Mapping[str, Any]) -> CallKey:
        """The key of a call with this conditioning."""
        sizes = ((n, str(v[0].tolist())) for n, v in sorted(conditioning.items()) if n.startswith(SIZE))
        return cls(tuple(sizes), frozen(call))


def is_stand_in(name: str) -> bool:
    """Whether conditioning of this name stands for media, and is no argument of ``__call__`` itself."""
    return name.startswith((SIZE, ENCODED, PIXELS, START))


def has_media(conditioning: Tensors) -> bool:
    """Whether some of it stands for media."""
    return any(name.startswith(SIZE) for name in conditioning)


def among(call: Mapping[str, Any]) -> set[str]:
    """The arguments that are images, or lists of them."""
    return {name for name, value in call.items() if isinstance(_first(value), Image.Image)}


def without(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are no images."""
    media = among(call)
    return {name: value for name, value in call.items() if name not in media}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def sizes(media: Mapping[str, Any]) -> Tensors:
    """Width and height of loaded media: (2,) for one, (n, 2) for a list, int64, by conditioning name."""
    return {SIZE + name: torch.tensor(_sizes(value)) for name, value in media.items()}


def _sizes(value: Any) -> Any:
    return [_sizes(v) for v in value] if isinstance(value, list) else list(value.size)


def pixels(media: Mapping[str, Any]) -> Tensors:
    """Loaded media themselves: (H, W, 3) for one, (n, H, W, 3) for a list, uint8, by conditioning name."""
    arrays = {n: np.array([*map(np.array, v)] if isinstance(v, list) else v) for n, v in media.items()}
    return {PIXELS + n: torch.from_numpy(array) for n, array in arrays.items()}


def in_place(conditioning: Tensors) -> dict[str, Any]:
    """Media as arguments: those whose pixels are kept, and black ones of the sizes that ``conditioning`` names.

    Raises:
        ModelError: the rows' media differ in size, or in pixels that are kept.
    """
    kept = {n.removeprefix(PIXELS): _shared(n, v).numpy() for n, v in conditioning.items() if n.startswith(PIXELS)}
    return blank(conditioning) | {n: _images(v) for n, v in kept.items()}


def _images(values: Any) -> Any:
    return [Image.fromarray(v) for v in values] if values.ndim == 4 else Image.fromarray(values)


def alike(conditioning: Tensors, rows: int) -> list[torch.Tensor]:
    """Indices (b,) of the rows whose media share their sizes, and their pixels where those are kept; over all ``rows``.

    Only such rows fit into one call, which takes one set of media.
    """
    shared = [v.flatten(1).cpu() for n, v in conditioning.items() if n.startswith((SIZE, PIXELS))]
    if not shared:
        return [torch.arange(rows)]
    numbers = torch.stack([v.unique(dim=0, return_inverse=True)[1] for v in shared], dim=1)  # (B, tensors)
    return [(numbers == each).all(1).nonzero().flatten() for each in numbers.unique(dim=0)]


def blank(conditioning: Tensors, colour: str = "black") -> dict[str, Any]:
    """Media of one colour and the sizes that ``conditioning`` names, as arguments.

    Raises:
        ModelError: the rows' media differ in size.
    """
    named = {n: _shared(n, v).tolist() for n, v in conditioning.items() if n.startswith(SIZE)}
    return {n.removeprefix(SIZE): _plain(size, colour) for n, size in named.items()}


def _shared(name: str, values: torch.Tensor) -> torch.Tensor:
    """The value that all rows share, on the CPU."""
    first = values[0].cpu()
    if not bool((values.cpu() == first).all()):
        what, _, argument = name.partition("_of_")
        raise ModelError(f"one batch holds media of different {what.removesuffix('s')}s for {argument}=")
    return first


def _plain(size: Any, colour: str) -> Any:
    return [_plain(s, colour) for s in size] if isinstance(size[0], list) else Image.new("RGB", tuple(size), colour)


def encoded_prefix(encoder: str, number: int) -> str:
    """How the names of the tensors begin that an encoder's call of this number returned."""
    return f"{ENCODED}{encoder}_{number}_"


def encoder_answers(conditioning: Tensors, encoder: str) -> list[torch.Tensor]:
    """The first tensor that each call of an encoder returned, for plugins.

    (B, ...), or (B, n, ...) where the encoder sees n images at once.
    """
    names = (f"{encoded_prefix(encoder, number)}0" for number in itertools.count())
    return [conditioning[name] for name in itertools.takewhile(conditioning.__contains__, names)]


def latent_modes(conditioning: Tensors, encoder: str) -> list[torch.Tensor]:
    """(B, C, ...) the mode of the distribution that each call of an autoencoder returned, for plugins."""
    return [DiagonalGaussianDistribution(moments).mode() for moments in encoder_answers(conditioning, encoder)]


def standardised_latents(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """Latents (B, C, F, h, w) of a video autoencoder in its denoiser's scale, channel by channel, for plugins."""
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1).to(latents) for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std
