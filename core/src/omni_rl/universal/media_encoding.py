"""Media to latents: the inverse of the pipeline's own decoding, for pipelines that only decode.

Between the denoiser's latents and the autoencoder lie packing, scale and shift, which every pipeline writes its own
way. All of them are affine maps of the elements (:mod:`omni_rl.universal.affine_maps`): probes pass through
``__call__`` as final latents and are caught where they reach ``vae.decode``, and the map is inverted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ModelError
from omni_rl.model.boundary import foreign
from omni_rl.universal import affine_maps, capture
from omni_rl.universal.affine_maps import AffineMap, NotAffineError
from omni_rl.universal.ask import ask, latent_arguments
from omni_rl.universal.scheduler_stand_ins import LeaveCall, OneStep

_MAPS_TO_VAE = Cache[tuple[tuple[str, str], ...], AffineMap]()
"""From final latents to what ``vae.decode`` is called with, by the pipeline's arguments."""


@hookimpl
def encode_media(model: LoadedModel, media: Tensors, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """Latents (B, ...) fp32 that decode to the media, by the mode of the autoencoder's distribution."""
    ((kind, pixels),) = media.items()
    row = {n: v[:1] for n, v in conditioning.items()}
    to_vae = _MAPS_TO_VAE.get(model, frozen(call), lambda: _find_map(model, row, call))
    values = 2 * pixels.to(model.device).float() - 1  # image (B, 3, H, W), video (B, F, 3, H, W)
    values = values.transpose(1, 2) if kind == "video" else values
    if len(to_vae.output_shape) == 4 and values.ndim == 4:
        values = values[:, :, None]  # an image is a video of one frame
    cannot = foreign(f"the autoencoder of {model.architecture} cannot encode media", "see rollout.call")
    with torch.no_grad(), model.encoders_on_device(), cannot:
        encoded = model.pipe.vae.encode(values.to(model.pipe.vae.dtype))
    latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    if latent.shape[1:] != to_vae.output_shape:
        shapes = f"{tuple(pixels.shape[1:])} give latents of {tuple(latent.shape[1:])}, not {to_vae.output_shape}"
        raise ModelError(
            f"media of {shapes}", "rollout.call's height, width and num_frames are the size that media must have"
        )
    return {"x": to_vae.inverse(latent.float())}


def _find_map(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> AffineMap:
    shapes = model.hooks.prepare_latents(model=model, conditioning=row, call=call)
    if set(shapes) != {"x"}:
        raise _not_invertible(model, f"it has the streams {', '.join(shapes)}")

    def through(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [_input_of_vae(model, value.to(model.device), row, call) for value in inputs]

    try:
        with torch.no_grad():
            return affine_maps.find_maps(through, [shapes["x"]])[0]
    except NotAffineError as reason:
        raise _not_invertible(model, str(reason)) from reason


def _not_invertible(model: LoadedModel, why: str) -> ModelError:
    what = f"{model.architecture} decodes in a way that cannot be inverted: {why}"
    return ModelError(what, "this model needs a plugin with encode_media: omni-rl new model")


class _CatchingVae:
    """Stands in for the autoencoder, in fp32: keeps what it is to decode, and leaves."""

    dtype = torch.float32

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self.latents: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_vae"], name)

    def decode(self, latents: torch.Tensor, *_: Any, **__: Any) -> None:
        """Keep them, and leave."""
        self.latents = latents
        raise LeaveCall


def _input_of_vae(model: LoadedModel, latents: torch.Tensor, row: Tensors, call: Mapping[str, Any]) -> torch.Tensor:
    """(1, ...) what ``vae.decode`` is called with when the final latents are ``latents`` (1, ...)."""
    vae = _CatchingVae(model.pipe.vae)
    step = OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, final=[latents])
    arguments = latent_arguments(model, {"x": latents}, row, call)
    with capture.replaced(model.pipe, vae=vae), capture.denoisers_silenced(model.denoisers):
        ask(model, step, row, call, **arguments, output_type="pt")
    assert vae.latents is not None, "pipelines decode with their vae"
    return vae.latents.float()
