"""Questions to a pipeline with everything that its ``__call__`` is given: conditioning, latents, blank media.

The universal adapter's hooks and the gate's oracle ask through :func:`ask`; what a pipeline needs to be handed besides
the conditioning (where its latents go, whether it wants a generator, the form of its encoders' answers) is found out
once and kept in ``LoadedModel.memo``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams, Tensors
from omni_rl.data.media_files import load
from omni_rl.errors import ModelError
from omni_rl.model.encoding import encode
from omni_rl.schedulers.randomness import ForbiddenGenerator
from omni_rl.universal import capture, image_starts, media_conditioning, scheduler_stand_ins
from omni_rl.universal.affine_maps import NotElementwiseError
from omni_rl.universal.embedding_rows import as_returned
from omni_rl.universal.image_starts import Start
from omni_rl.universal.media_conditioning import Answers
from omni_rl.universal.prompt_outputs import NEEDS_PLUGIN, least_steps
from omni_rl.universal.streams import Ask, Stream, arguments, find_streams


def ask(model: LoadedModel, scheduler: Any, conditioning: Tensors, call: Mapping[str, Any], **more: Any) -> Any:
    """:func:`omni_rl.universal.capture.ask` with everything ``__call__`` is given besides latents, and ``more``."""
    arguments = {**call_arguments(model, conditioning, call), **more}
    if not media_conditioning.signature(conditioning):
        return capture.ask(model.pipe, scheduler, **arguments)
    with media_conditioning.answering(model, conditioning, _templates(model, conditioning, call)):
        return capture.ask(model.pipe, scheduler, **arguments)


def latent_arguments(
    model: LoadedModel, x: Streams, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Latents under the names by which ``__call__`` takes them."""
    return arguments(streams_of(model, conditioning, call), x, conditioning)


def call_arguments(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Any]:
    """Everything else ``__call__`` is given: embeddings in the model's precision, and a generator nobody may use.

    Embeddings stand in for the texts, which are None then: some pipelines have another default.
    """
    own = {n: v for n, v in conditioning.items() if not media_conditioning.is_stand_in(n)}
    given = as_returned({n: v.to(model.input_dtype) if v.is_floating_point() else v for n, v in own.items()})
    negative = {name.startswith("negative_") for name in given}
    texts = [n for n in ("prompt", "negative_prompt") if (n != "prompt") in negative and n in _taken(model)]
    media = media_conditioning.in_place(conditioning)
    fixed = capture.minimal(call, least_steps(model))
    return {"generator": _generator(model, call), **dict.fromkeys(texts), **given, **media, **fixed}


def _taken(model: LoadedModel) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(model.pipe).__call__).parameters


def streams_of(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Stream]:
    """By name; found once, by whichever hook is called first."""
    key = ("streams", media_conditioning.signature(conditioning), frozen(call))
    if key not in model.memo:
        row = {n: v[:1] for n, v in conditioning.items()}

        def step(**arguments: Any) -> scheduler_stand_ins.OneStep:
            one = scheduler_stand_ins.OneStep(model.pipe.scheduler, torch.tensor(1000.0), arguments.pop("streams"))
            ask(model, one, row, call, **arguments)
            return one

        with torch.no_grad(), model.compute(), capture.first_asked(model.pipe):
            start = _start(model, row, call) if media_conditioning.signature(row) else None
            model.memo[key] = find_streams(model, _minding_idle_draws(model, step, call), start)
    return model.memo[key]  # type: ignore[no-any-return]


def _minding_idle_draws(model: LoadedModel, ask: Ask, call: Mapping[str, Any]) -> Ask:
    """``ask``, which also finds out whether the pipeline draws noise although it is given latents.

    Some draw noise and multiply it by 0. That may be: two generators must then make no difference.

    Raises:
        ModelError: it draws noise that counts.
    """

    def asked(**arguments: Any) -> scheduler_stand_ins.OneStep:
        if "generator" in arguments:
            return ask(**arguments)
        try:
            return ask(**arguments)
        except (AssertionError, TypeError) as error:
            first, second = (ask(**arguments, generator=capture.discarded(seed)) for seed in (0, 1))
            pairs = zip(first.samples + first.velocities, second.samples + second.velocities, strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                what = f"{model.architecture} draws noise of its own, although it is given latents"
                raise ModelError(what, NEEDS_PLUGIN) from error
            model.memo["idle draws", frozen(call)] = True
            return first

    return asked


def _generator(model: LoadedModel, call: Mapping[str, Any]) -> Any:
    idle = ("idle draws", frozen(media_conditioning.without(call))) in model.memo
    return capture.discarded() if idle else ForbiddenGenerator()


def encoded_media(model: LoadedModel, request: Request) -> Tensors:
    """One request's, without batch dimension; an encoder that sees several pictures at once keeps their dimension."""
    media, (text, _) = load(request.media), encode(model, [request])
    sizes = media_conditioning.sizes(media)
    answers = _answers(model, text, request.call, media)
    model.memo[_templates_key({n: v[None] for n, v in sizes.items()}, request.call)] = answers
    found = sizes | {name: value[0] if len(value) == 1 else value for name, value in answers.conditioning().items()}
    row = text | {name: value[None] for name, value in found.items()}
    with torch.no_grad(), model.compute(), capture.first_asked(model.pipe):
        found |= media_conditioning.pixels({name: media[name] for name in _seen_directly(model, row, request.call)})
        if _start(model, row, request.call) is not None:
            found[f"{media_conditioning.START}latents"] = image_starts.whole(
                model.pipe, _asking(model, row, request.call)
            )[0]
    return found


def _seen_directly(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> list[str]:
    """Media whose pixels change what the denoiser is called with, although encoders answer the same."""
    key = ("seen directly", media_conditioning.signature(row), frozen(call))
    if key not in model.memo:
        black = _denoiser_inputs(model, row, call)
        white = {
            n: _denoiser_inputs(model, row, call, **{n: v}) for n, v in media_conditioning.blank(row, "white").items()
        }
        model.memo[key] = [n for n, found in white.items() if not all(map(torch.equal, found, black))]
    return model.memo[key]  # type: ignore[no-any-return]


def _denoiser_inputs(model: LoadedModel, row: Tensors, call: Mapping[str, Any], **media: Any) -> list[torch.Tensor]:
    with capture.leave_at_denoiser(model.denoisers) as given:
        ask(model, scheduler_stand_ins.idle(model.pipe.scheduler), row, call, **media, generator=capture.discarded())
    return list(media_conditioning.leaves(given))


def _start(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> Start | None:
    key = ("start", media_conditioning.signature(row), frozen(call))
    if key not in model.memo:
        _templates(model, row, call)  # before anything of the pipeline is replaced
        try:
            model.memo[key] = image_starts.find(model.pipe, _asking(model, row, call))
        except NotElementwiseError as reason:
            what = f"{model.architecture} cannot be given the latents that it makes of noise and a picture: {reason}"
            raise ModelError(what, NEEDS_PLUGIN) from reason
    return model.memo[key]  # type: ignore[no-any-return]


def _asking(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> image_starts.Ask:
    return lambda **arguments: ask(model, scheduler_stand_ins.idle(model.pipe.scheduler), row, call, **arguments)


def _answers(model: LoadedModel, text: Tensors, call: Mapping[str, Any], media: Mapping[str, Any]) -> Answers:
    """What encoders answer on the way to the first denoiser call."""
    with (
        capture.leave_at_denoiser(model.denoisers),
        media_conditioning.recording(model) as answers,
        capture.first_asked(model.pipe),
        model.encoders_on_device(),
    ):
        arguments = {**call_arguments(model, text, call), **media, "generator": capture.discarded()}
        capture.ask(model.pipe, scheduler_stand_ins.idle(model.pipe.scheduler), **arguments)
    if not answers.by_call:
        raise ModelError(f"{model.architecture} encodes none of {', '.join(media)}", "see data.media")
    return answers


def _templates_key(conditioning: Tensors, call: Mapping[str, Any]) -> tuple[Any, ...]:
    return "templates", media_conditioning.signature(conditioning), frozen(call)


def _templates(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> Answers:
    """The form of encoders' answers; asked for with blank media where another process has encoded the real ones."""
    key = _templates_key(conditioning, call)
    if key not in model.memo:
        text = {n: v[:1] for n, v in conditioning.items() if not media_conditioning.is_stand_in(n)}
        with torch.no_grad():
            model.memo[key] = _answers(model, text, call, media_conditioning.blank(conditioning))
    return model.memo[key]  # type: ignore[no-any-return]
