"""Pictures to latents: the inverse of the pipeline's own decoding, for pipelines that only decode.

Between the denoiser's latents and the autoencoder's lie packing, scale and shift, which every pipeline writes its own
way. All of them move elements and multiply or shift them, so the way back can be read off the way there: probes pass
through ``__call__`` as final latents and are caught where they reach ``vae.decode``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ModelError
from omni_rl.universal import affine_maps, capture, scheduler_stand_ins
from omni_rl.universal.affine_maps import Elementwise, NotElementwiseError


@hookimpl
def encode_media(model: LoadedModel, media: Tensors, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """Latents (B, ...) fp32 that decode to the media, by the mode of the autoencoder's distribution."""
    ((kind, pixels),) = media.items()
    way = _way_back(model, {n: v[:1] for n, v in conditioning.items()}, call)
    values = 2 * pixels.to(model.device).float() - 1  # image (B, 3, H, W), video (B, F, 3, H, W)
    values = values.transpose(1, 2) if kind == "video" else values
    if len(way.arrived) == 4 and values.ndim == 4:
        values = values[:, :, None]  # a picture is a video of one
    with torch.no_grad(), model.encoders_on_device():
        encoded = model.pipe.vae.encode(values.to(model.pipe.vae.dtype))
    latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    if latent.shape[1:] != way.arrived:
        what = f"media of {tuple(pixels.shape[1:])} give latents of {tuple(latent.shape[1:])}, not {way.arrived}"
        raise ModelError(what, "rollout.call's height, width and num_frames are the size that media must have")
    return {"x": way.back(latent.float())}


def _way_back(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> Elementwise:
    key = ("way back", frozen(call))
    if key not in model.memo:
        with torch.no_grad():
            model.memo[key] = _find(model, row, call)
    return model.memo[key]  # type: ignore[no-any-return]


def _find(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> Elementwise:
    shapes = model.hooks.prepare_latents(model=model, conditioning=row, call=call)
    if set(shapes) != {"x"}:
        raise _unclear(model, f"it has the streams {', '.join(shapes)}")

    def through(values: list[torch.Tensor]) -> list[torch.Tensor]:
        return [_reaches_vae(model, value.to(model.device), row, call) for value in values]

    try:
        (way,) = affine_maps.find(through, [shapes["x"]])
    except NotElementwiseError as reason:
        raise _unclear(model, str(reason)) from reason
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
        raise scheduler_stand_ins.Answered


def _reaches_vae(model: LoadedModel, latents: torch.Tensor, row: Tensors, call: Mapping[str, Any]) -> torch.Tensor:
    """(1, ...) what ``vae.decode`` is called with when the final latents are ``latents`` (1, ...)."""
    from omni_rl.universal.ask import ask, latent_arguments

    own = model.pipe.vae
    caught = _Caught(own)
    step = scheduler_stand_ins.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, instead=[latents])
    given = latent_arguments(model, {"x": latents}, row, call)
    model.pipe.__dict__["vae"] = caught
    try:
        with capture.denoisers_silenced(model.denoisers):
            ask(model, step, row, call, **given, output_type="pt")
    finally:
        model.pipe.__dict__["vae"] = own
    assert caught.latents is not None, "pipelines decode with their vae"
    return caught.latents.float()
