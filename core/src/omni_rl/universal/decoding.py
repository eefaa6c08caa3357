"""Final latents to media, by the pipeline's own decoding: one step with silent denoisers, whose outcome they are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from omni_rl.contracts.call import frozen
from omni_rl.contracts.media import RATE
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.errors import ModelError
from omni_rl.universal import capture, scheduler_stand_ins
from omni_rl.universal.ask import ask, latent_arguments
from omni_rl.universal.batching import NOT_TAKEN, take


def decode(
    model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any], apart: bool
) -> Tensors:
    """Media (B, ...) by kind, of latents (B, ...); ``apart``: row by row, as is done where a batch fails."""
    alone = ("decoded alone", frozen(call))
    rows = len(next(iter(latents.values())))
    if rows > 1 and not (apart or alone in model.memo):
        try:
            return _decoded(model, latents, conditioning, call)
        except torch.OutOfMemoryError:
            raise
        except NOT_TAKEN:
            model.memo[alone] = True
    parts = [_decoded(model, take(latents, i), take(conditioning, i), call) for i in torch.arange(rows).split(1)]
    return {kind: torch.cat([media[kind] for media in parts]) for kind in parts[0]}


def _decoded(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    rows = len(next(iter(latents.values())))
    final = [x.to(model.dtype) for x in latents.values()]  # what decoders of this precision take
    given = latent_arguments(model, latents, conditioning, call)

    def asked(denoisers: Mapping[str, nn.Module], **generator: Any) -> Any:
        step = scheduler_stand_ins.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, instead=final)
        with capture.denoisers_silenced(denoisers), model.encoders_on_device(), model.compute():
            try:
                return ask(model, step, conditioning, call, **given, **generator, output_type="pt")
            except torch.OutOfMemoryError:
                raise
            except (ModelError, *NOT_TAKEN):
                if step.samples or not denoisers:  # it is not what silent denoisers answer
                    raise
        return asked({}, **generator)

    def decoded(**generator: Any) -> Tensors:
        outputs = asked(model.denoisers, **generator)
        media = dict(_medium(output, rows) for output in outputs if isinstance(output, torch.Tensor))
        return media | _rates(model, media, call)

    media = decoded()
    if model.memo.get(("idle draws", frozen(call))) is True:  # of the loop; the decoder's have yet to be seen
        other = decoded(generator=capture.discarded(1))
        if not all(torch.equal(value, other[kind]) for kind, value in media.items()):
            raise ModelError(f"{model.architecture} draws noise of its own while it decodes", "see rollout.call")
        model.memo["idle draws", frozen(call)] = "of the decoder too"
    return media


def _medium(output: torch.Tensor, rows: int) -> tuple[str, torch.Tensor]:
    """diffusers: images (B, 3, H, W), videos (B, F, 3, H, W), audio (B, C, S). What has an opacity lies on white.

    Where one sample makes several rows, they are its frames, and the batch was left out.
    """
    if rows == 1 < len(output):
        output = output[None]
    if output.ndim == 4 and output.shape[1] == 4:
        output = output[:, :3] * output[:, 3:] + 1 - output[:, 3:]
    return {4: "image", 5: "video", 3: "audio"}[output.ndim], output


def _rates(model: LoadedModel, media: Tensors, call: Mapping[str, Any]) -> Tensors:
    """Frames and sound samples per second, where the pipeline's arguments or components tell them."""
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    default = parameters["frame_rate"].default if "frame_rate" in parameters else None
    sound = (getattr(m.config, "output_sampling_rate", None) for m in model.modules.values() if hasattr(m, "config"))
    known = {"video": call.get("frame_rate") or default, "audio": next((rate for rate in sound if rate), None)}
    rates = {kind: float(rate) for kind, rate in known.items() if isinstance(rate, (int, float))}
    return {kind + RATE: torch.full((len(media[kind]),), rates[kind]) for kind in media.keys() & rates.keys()}
