"""Final latents to media, by the pipeline's own decoding: one step of silent denoisers that returns these latents."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from omni_rl.contracts.call import frozen
from omni_rl.contracts.media import RATE
from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ModelError
from omni_rl.universal import capture
from omni_rl.universal.ask import UNUSED_NOISE, ask, latent_arguments
from omni_rl.universal.batching import NOT_TAKEN, take
from omni_rl.universal.scheduler_stand_ins import OneStep

_APART = Cache[tuple[tuple[str, str], ...], bool]()
"""Whether rows are decoded one by one, by the pipeline's arguments: a batch fails, or its rows change each other."""

NOTICED = 1 / 255
"""Smaller differences of media, on average, count as rounding."""


def decode(
    model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any], apart: bool
) -> Tensors:
    """Media (B, ...) by kind, of latents (B, ...).

    Args:
        apart: decode row by row, as is done where a batch fails, or where rows of a batch change each other: some
            pipelines normalise frames over the whole batch.
    """
    rows, known, key = len(next(iter(latents.values()))), _APART.of(model), frozen(call)
    if rows > 1 and not (apart or known.get(key)):
        try:
            media = _decode_together(model, latents, conditioning, call)
            if key not in known:  # once
                first = torch.arange(1)
                alone = _decode_together(model, take(latents, first), take(conditioning, first), call)
                known[key] = any(_apart(media[kind][:1], value) for kind, value in alone.items())
        except torch.OutOfMemoryError:
            raise
        except NOT_TAKEN:
            known[key] = True
        if not known[key]:
            return media
    parts = [
        _decode_together(model, take(latents, i), take(conditioning, i), call) for i in torch.arange(rows).split(1)
    ]
    return {kind: torch.cat([media[kind] for media in parts]) for kind in parts[0]}


def _apart(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape != b.shape or not bool((a.float() - b.float()).abs().mean() <= NOTICED)


def _decode_together(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    """Decode in one call.

    Raises:
        ModelError: noise that the pipeline draws while it decodes makes a difference.
    """
    media, noise = _decode_once(model, latents, conditioning, call), UNUSED_NOISE.of(model)
    if noise.get(frozen(call)) == "loop":
        generator = capture.throwaway_generator(1)
        other = _decode_once(model, latents, conditioning, call, generator=generator)
        if not all(torch.equal(value, other[kind]) for kind, value in media.items()):
            raise ModelError(f"{model.architecture} draws noise of its own while it decodes", "see rollout.call")
        noise[frozen(call)] = "loop and decoder"
    return media


def _decode_once(
    model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any], **generator: Any
) -> Tensors:
    final = [x.to(model.dtype) for x in latents.values()]  # what decoders of this precision take
    arguments = latent_arguments(model, latents, conditioning, call)

    def outputs(denoisers: Mapping[str, nn.Module]) -> Any:
        step = OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, final=final)
        with capture.denoisers_silenced(denoisers), model.encoders_on_device(), model.compute():
            try:
                return ask(model, step, conditioning, call, **arguments, **generator, output_type="pt")
            except torch.OutOfMemoryError:
                raise
            except (ModelError, *NOT_TAKEN):
                if step.samples or not denoisers:  # not because denoisers were silent
                    raise
        return outputs({})

    rows = len(final[0])
    media = dict(_medium(output, rows) for output in outputs(model.denoisers) if isinstance(output, torch.Tensor))
    return media | _rates(model, media, call)


def _medium(output: torch.Tensor, rows: int) -> tuple[str, torch.Tensor]:
    """An output of diffusers with its kind: image (B, 3, H, W), video (B, F, 3, H, W) or audio (B, C, S).

    An image with an alpha channel is put on white. Several rows from one sample are its frames: the pipeline has left
    out the batch dimension.
    """
    if rows == 1 < len(output):
        output = output[None]
    if output.ndim == 4 and output.shape[1] == 4:
        output = output[:, :3] * output[:, 3:] + 1 - output[:, 3:]
    return {4: "image", 5: "video", 3: "audio"}[output.ndim], output


def _rates(model: LoadedModel, media: Tensors, call: Mapping[str, Any]) -> Tensors:
    """Frames and audio samples per second, where the pipeline's arguments or components tell them."""
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    default = parameters["frame_rate"].default if "frame_rate" in parameters else None
    sound = (getattr(m.config, "output_sampling_rate", None) for m in model.modules.values() if hasattr(m, "config"))
    known = {"video": call.get("frame_rate") or default, "audio": next((rate for rate in sound if rate), None)}
    rates = {kind: float(rate) for kind, rate in known.items() if isinstance(rate, (int, float))}
    return {kind + RATE: torch.full((len(media[kind]),), rates[kind]) for kind in media.keys() & rates.keys()}
