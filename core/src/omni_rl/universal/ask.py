"""Run a pipeline with everything that its ``__call__`` needs besides latents: conditioning, generator, blank media.

The universal adapter's hooks and the gate's rows run pipelines through :func:`ask`. What a pipeline must be given
(which arguments take its latents, whether it wants a generator, the form of its encoders' outputs) is found once and
kept in caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.data.media_files import load
from omni_rl.errors import ModelError
from omni_rl.model.encoding import encode
from omni_rl.schedulers.randomness import ForbiddenGenerator
from omni_rl.universal import capture, encoder_outputs, image_starts, media_conditioning, scheduler_stand_ins
from omni_rl.universal.affine_maps import NotAffineError
from omni_rl.universal.capture import NEEDS_PLUGIN
from omni_rl.universal.embedding_rows import as_returned
from omni_rl.universal.encoder_outputs import EncoderOutputs
from omni_rl.universal.image_starts import ImageStart
from omni_rl.universal.media_conditioning import CallKey
from omni_rl.universal.prompt_outputs import needs_of, side_texts
from omni_rl.universal.scheduler_stand_ins import OneStep
from omni_rl.universal.streams import RunStep, Stream, arguments, find_streams

_STREAMS = Cache[CallKey, dict[str, Stream]]()
_IMAGE_STARTS = Cache[CallKey, ImageStart | None]()
_TEMPLATES = Cache[CallKey, EncoderOutputs]()
_SEEN_DIRECTLY = Cache[CallKey, list[str]]()

UNUSED_NOISE = Cache[tuple[tuple[str, str], ...], Literal["loop", "loop and decoder"]]()
"""Where a pipeline that is given latents draws noise that changes nothing, by its arguments, as far as was tested."""


def ask(model: LoadedModel, scheduler: Any, conditioning: Tensors, call: Mapping[str, Any], **more: Any) -> Any:
    """:func:`omni_rl.universal.capture.run_call` with :func:`call_arguments` and ``more``."""
    arguments = {**call_arguments(model, conditioning, call), **more}
    if not media_conditioning.has_media(conditioning):
        return capture.run_call(model.pipe, scheduler, **arguments)
    templates = _templates(model, conditioning, call)
    try:
        with encoder_outputs.replaying(model, conditioning, templates):
            return capture.run_call(model.pipe, scheduler, **arguments)
    except (capture.CallRefusedError, capture.CallFailedError):
        _refuse_replayed_encoders(model, conditioning, call, templates)
        raise


def _refuse_replayed_encoders(
    model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any], templates: EncoderOutputs
) -> None:
    """After a call has failed: see whether the pipeline comes to its denoiser without latents, as it did before.

    Its encoders ran then, and now return what they returned.

    Raises:
        ModelError: it does not, so it takes something else from its encoders than what they return.
    """
    arguments = {**call_arguments(model, conditioning, call), "generator": capture.throwaway_generator()}
    never = scheduler_stand_ins.never_stepped(model.pipe.scheduler)
    try:
        with encoder_outputs.replaying(model, conditioning, templates), capture.leave_at_denoiser(model.denoisers):
            capture.run_call(model.pipe, never, **arguments)
    except (capture.CallRefusedError, capture.CallFailedError) as error:
        what = f"{model.architecture} takes more from its encoders than what they return, which is all that core keeps"
        raise ModelError(f"{what}: {error.what}", NEEDS_PLUGIN) from error


def call_arguments(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Any]:
    """Everything ``__call__`` is given besides latents: embeddings in the model's precision, media, a generator.

    Embeddings take the place of all texts, which are None then: some pipelines have another default.
    """
    own = {n: v for n, v in conditioning.items() if not media_conditioning.is_stand_in(n)}
    embeddings = as_returned({n: v.to(model.input_dtype) if v.is_floating_point() else v for n, v in own.items()})
    negative = {name.startswith("negative_") for name in embeddings}
    texts = [n for n in ("prompt", "negative_prompt") if (n != "prompt") in negative and model.takes(n)]
    media = media_conditioning.in_place(conditioning)
    fixed = capture.one_step(call, needs_of(model).least_steps)
    encoded = dict.fromkeys(side_texts(call, 1)) if any("prompt_embeds" in name for name in embeddings) else {}
    given = {**dict.fromkeys(texts), **embeddings, **media, **fixed, **encoded}
    return {"generator": _generator(model, call), **given}


def _generator(model: LoadedModel, call: Mapping[str, Any]) -> Any:
    draws = frozen(media_conditioning.without(call)) in UNUSED_NOISE.of(model)
    return capture.throwaway_generator() if draws else ForbiddenGenerator()


def latent_arguments(
    model: LoadedModel, x: Streams, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Latents under the names by which ``__call__`` takes them."""
    return arguments(streams_of(model, conditioning, call), x, conditioning)


def streams_of(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Stream]:
    """The streams by name, found once by whichever hook is called first."""
    return _STREAMS.get(model, CallKey.of(conditioning, call), lambda: _find_streams(model, conditioning, call))


def _find_streams(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Stream]:
    row = {n: v[:1] for n, v in conditioning.items()}

    def run_step(**arguments: Any) -> OneStep:
        one = OneStep(model.pipe.scheduler, torch.tensor(1000.0), arguments.pop("streams"))
        ask(model, one, row, call, **arguments)
        return one

    with torch.no_grad(), model.compute(), capture.blaming_arguments(model.pipe):
        start = _image_start(model, row, call) if media_conditioning.has_media(row) else None
        return find_streams(model, _allowing_unused_noise(model, run_step, call), start)


def _allowing_unused_noise(model: LoadedModel, run_step: RunStep, call: Mapping[str, Any]) -> RunStep:
    """``run_step``, which also finds out whether the pipeline draws noise although it is given latents.

    Some draw noise and multiply it by 0. That is allowed: two generators must then make no difference.

    Raises:
        ModelError: the noise makes a difference.
    """

    def run(**arguments: Any) -> OneStep:
        if "generator" in arguments:
            return run_step(**arguments)
        try:
            return run_step(**arguments)
        except capture.CallFailedError as error:
            if not isinstance(error.__cause__, (AssertionError, TypeError)):  # what ForbiddenGenerator makes of a draw
                raise
            first, second = (run_step(**arguments, generator=capture.throwaway_generator(seed)) for seed in (0, 1))
            pairs = zip(first.samples + first.velocities, second.samples + second.velocities, strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                what = f"{model.architecture} draws noise of its own, although it is given latents"
                raise ModelError(what, NEEDS_PLUGIN) from error
            UNUSED_NOISE.of(model)[frozen(call)] = "loop"
            return first

    return run


def encoded_media(model: LoadedModel, request: Request) -> Tensors:
    """What stands for one request's media, without batch dimension."""
    text, _ = encode(model, [request])
    return encode_media_of_row(model, text, request.call, load(request.media))


def encode_media_of_row(
    model: LoadedModel, text: Tensors, call: Mapping[str, Any], media: Mapping[str, Any]
) -> Tensors:
    """What stands for loaded media beside one prompt's conditioning ``text`` (1, ...), without batch dimension.

    The outputs of an encoder that sees several images at once keep the images' dimension.
    """
    sizes = media_conditioning.sizes(media)
    outputs = _encoder_outputs(model, text, call, media)
    _TEMPLATES.of(model)[CallKey.of({n: v[None] for n, v in sizes.items()}, call)] = outputs
    kept = sizes | {name: value[0] if len(value) == 1 else value for name, value in outputs.conditioning().items()}
    row = text | {name: value[None] for name, value in kept.items()}
    with torch.no_grad(), model.compute(), capture.blaming_arguments(model.pipe):
        kept |= media_conditioning.pixels({name: media[name] for name in _seen_directly(model, row, call)})
        if _image_start(model, row, call) is not None:
            latents = image_starts.initial_latents(model.pipe, _run_row(model, row, call))
            kept[f"{media_conditioning.START}latents"] = latents[0]
    return kept


def _seen_directly(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> list[str]:
    """Media whose pixels change the denoiser's inputs although encoders return the same."""

    def compare() -> list[str]:
        black = _denoiser_inputs(model, row, call)
        white = media_conditioning.blank(row, "white")
        inputs = {name: _denoiser_inputs(model, row, call, **{name: medium}) for name, medium in white.items()}
        return [name for name, tensors in inputs.items() if not all(map(torch.equal, tensors, black))]

    return _SEEN_DIRECTLY.get(model, CallKey.of(row, call), compare)


def _denoiser_inputs(model: LoadedModel, row: Tensors, call: Mapping[str, Any], **media: Any) -> list[torch.Tensor]:
    with capture.leave_at_denoiser(model.denoisers) as inputs:
        _run_row(model, row, call)(**media, generator=capture.throwaway_generator())
    return list(encoder_outputs.tensors_in(inputs))


def _run_row(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> image_starts.RunRow:
    scheduler = scheduler_stand_ins.never_stepped(model.pipe.scheduler)
    return lambda **arguments: ask(model, scheduler, row, call, **arguments)


def _image_start(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> ImageStart | None:
    def find() -> ImageStart | None:
        _templates(model, row, call)  # before anything of the pipeline is replaced
        try:
            return image_starts.find_image_start(model.pipe, _run_row(model, row, call))
        except NotAffineError as reason:
            what = f"{model.architecture} cannot be given the latents that it makes of noise and an image: {reason}"
            raise ModelError(what, NEEDS_PLUGIN) from reason

    return _IMAGE_STARTS.get(model, CallKey.of(row, call), find)


def _templates(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> EncoderOutputs:
    """The form of the encoders' outputs, found with blank media where another process has encoded the real ones."""

    def encode_blank() -> EncoderOutputs:
        text = {n: v[:1] for n, v in conditioning.items() if not media_conditioning.is_stand_in(n)}
        with torch.no_grad():
            return _encoder_outputs(model, text, call, media_conditioning.blank(conditioning))

    return _TEMPLATES.get(model, CallKey.of(conditioning, call), encode_blank)


def _encoder_outputs(
    model: LoadedModel, text: Tensors, call: Mapping[str, Any], media: Mapping[str, Any]
) -> EncoderOutputs:
    """What encoders return on the way to the first denoiser call."""
    with (
        capture.leave_at_denoiser(model.denoisers),
        encoder_outputs.recording(model) as outputs,
        capture.blaming_arguments(model.pipe),
        model.encoders_on_device(),
    ):
        arguments = {**call_arguments(model, text, call), **media, "generator": capture.throwaway_generator()}
        capture.run_call(model.pipe, scheduler_stand_ins.never_stepped(model.pipe.scheduler), **arguments)
    if not outputs.by_call:
        raise ModelError(f"{model.architecture} encodes none of {', '.join(media)}", "see data.media")
    return outputs
