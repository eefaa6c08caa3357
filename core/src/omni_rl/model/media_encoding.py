"""Pictures to latents: the inverse of the pipeline's own decoding, for pipelines that only decode.

Between the denoiser's latents and the autoencoder's lie packing, scale and shift, which every pipeline writes its own
way. All of them move elements and multiply or shift them, so the way back can be read off the way there: probes pass
through ``__call__`` as final latents and are caught where they reach ``vae.decode``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from omni_rl.errors import ModelError
from omni_rl.hookspecs import hookimpl
from omni_rl.model import capture, stand_ins
from omni_rl.model.loaded import LoadedModel, frozen
from omni_rl.randomness import randn
from omni_rl.types import Streams, Tensors

DIGITS = 1024
"""A place is told in two digits, which fp32 carries through any scale and shift."""


@hookimpl
def encode_media(model: LoadedModel, media: Tensors, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """Latents (B, ...) fp32 that decode to the media, by the mode of the autoencoder's distribution."""
    ((kind, pixels),) = media.items()
    way = _way_back(model, {n: v[:1] for n, v in conditioning.items()}, call)
    values = 2 * pixels.to(model.device).float() - 1  # image (B, 3, H, W), video (B, F, 3, H, W)
    values = values.transpose(1, 2) if kind == "video" else values
    values = values[:, :, None] if len(way.shape) == 4 and values.ndim == 4 else values  # a picture is a video of one
    with torch.no_grad(), model.encoders_on_device():
        encoded = model.pipe.vae.encode(values.to(model.pipe.vae.dtype))
    latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    if latent.shape[1:] != way.shape:
        what = f"media of {tuple(pixels.shape[1:])} give latents of {tuple(latent.shape[1:])}, not {tuple(way.shape)}"
        raise ModelError(what, "rollout.call's height, width and num_frames are the size that media must have")
    return {"x": way.back(latent.float())}


@dataclass(frozen=True)
class WayBack:
    """What reaches the autoencoder, at place p, is ``scale[p] * x[place[p]] + shift[p]``.

    Attributes:
        shape: of one sample at the autoencoder. latents: of one sample at the denoiser.
        place: (P,) int64, a permutation. scale, shift: (P,).
    """

    shape: torch.Size
    latents: torch.Size
    place: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def back(self, latent: torch.Tensor) -> torch.Tensor:
        """(B, *latents) from (B, *shape)."""
        flat = (latent.flatten(1) - self.shift) / self.scale
        placed = torch.empty_like(flat).index_copy_(1, self.place, flat)  # (B, P)
        return placed.view(len(latent), *self.latents)


def _way_back(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> WayBack:
    key = ("way back", frozen(call))
    if key not in model.memo:
        with torch.no_grad():
            model.memo[key] = _find(model, row, call)
    return model.memo[key]  # type: ignore[no-any-return]


def _find(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> WayBack:
    shapes = model.hooks.prepare_latents(model=model, conditioning=row, call=call)
    if set(shapes) != {"x"}:
        raise _unclear(model, f"it has the streams {', '.join(shapes)}")
    latents = torch.Size(shapes["x"])
    numbers = torch.arange(latents.numel()).view(1, *latents)
    zero = torch.zeros(1, *latents)
    shift, one, high, low, other = (
        _reaches_vae(model, probe.float().to(model.device), row, call)
        for probe in (zero, zero + 1, numbers // DIGITS, numbers % DIGITS, randn(0, (1, *latents)))
    )
    shape, scale = shift.shape[1:], (one - shift).flatten()
    if shape.numel() != latents.numel() or bool((scale == 0).any()):
        raise _unclear(model, "elements are lost on the way")
    digits = [((digit - shift).flatten() / scale).round().long() for digit in (high, low)]
    place = digits[0] * DIGITS + digits[1]
    way = WayBack(shape, latents, place, scale, shift.flatten())
    if not torch.equal(place.sort().values.cpu(), numbers.flatten()):
        raise _unclear(model, "places do not come back one by one")
    if not torch.allclose(way.back(other).cpu(), randn(0, (1, *latents)), atol=1e-4):
        raise _unclear(model, "it does more than to scale and shift")
    return way


def _unclear(model: LoadedModel, why: str) -> ModelError:
    what = f"{model.architecture} decodes in a way that cannot be read backwards: {why}"
    return ModelError(what, "this model needs a plugin with encode_media: omni-rl new model")


class _Caught:
    """Stands in for the autoencoder, in fp32."""

    dtype = torch.float32

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self.latents: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_vae"], name)

    def decode(self, latents: torch.Tensor, *_: Any, **__: Any) -> None:
        """Keep them, and leave."""
        self.latents = latents
        raise stand_ins.Answered


def _reaches_vae(model: LoadedModel, latents: torch.Tensor, row: Tensors, call: Mapping[str, Any]) -> torch.Tensor:
    """(1, ...) what ``vae.decode`` is called with when the final latents are ``latents`` (1, ...)."""
    from omni_rl.model.asking import ask, latent_arguments

    own = model.pipe.vae
    caught = _Caught(own)
    step = stand_ins.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, instead=[latents])
    given = latent_arguments(model, {"x": latents}, row, call)
    model.pipe.__dict__["vae"] = caught
    try:
        with capture.denoisers_silenced(model.denoisers):
            ask(model, step, row, call, **given, output_type="pt")
    finally:
        model.pipe.__dict__["vae"] = own
    assert caught.latents is not None, "pipelines decode with their vae"
    return caught.latents.float()
