"""The universal adapter: core's default model hooks. They ask the upstream pipeline itself, so that whatever it does
(guidance flavour, renormalisation, sign, timestep scaling, packing) rollout and replay do, because it is the same code.

One question is asked in several ways: "run your ``__call__`` up to here" (:mod:`omni_rl.model.capture`).

* ``encode_prompt``: up to the first denoiser call; the outputs of the pipeline's own ``encode_prompt`` are named by its
  return statement (``return prompt_embeds, pooled_prompt_embeds, text_ids``) and kept if ``__call__`` takes them back.
* ``prepare_condition``: up to the first denoiser call; what autoencoders and image encoders answered is kept
  (:mod:`omni_rl.model.given_media`).
* ``prepare_latents``: one step; the samples that reach ``scheduler.step`` are the streams, in that order.
* ``set_timesteps``: up to the first ``scheduler.step`` of the pipeline's own scheduler.
* ``predict``: one step whose timestep is ``t``; what reaches ``scheduler.step`` is the velocity.
* ``decode_latents``: one step with a silent denoiser and a scheduler that answers the final latents.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from omni_rl.errors import ModelError
from omni_rl.hookspecs import hookimpl
from omni_rl.media import RATE
from omni_rl.media_files import load
from omni_rl.model import capture, given_media
from omni_rl.model.batching import Mode, SingleStep, fastest_mode, in_rows
from omni_rl.model.encoding import encode, once
from omni_rl.model.given_media import Answers
from omni_rl.model.loaded import LoadedModel, frozen
from omni_rl.randomness import ForbiddenGenerator
from omni_rl.requests import Request
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler
from omni_rl.types import NO_CONDITION, NO_TOKENS, SigmaTable, Streams, Tensors

_PLUGIN = "this model needs a plugin: omni-rl new model"


@hookimpl
def tokenize() -> Tensors:
    """The pipeline tokenises by itself."""
    return NO_TOKENS


@hookimpl
def prepare_condition(model: LoadedModel, requests: Sequence[Request]) -> Tensors:
    """What encoders make of the requests' media, asked once for each prompt."""
    if not requests[0].media:
        return NO_CONDITION
    rows = [once(model, request, lambda r: _encoded_media(model, r)) for request in requests]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _encoded_media(model: LoadedModel, request: Request) -> Tensors:
    """One request's, without batch dimension."""
    media, (text, _) = load(request.media), encode(model, [request])
    sizes = given_media.sizes(media)
    answers = _answers(model, text, request.call, media)
    model.memo[_templates_key({n: v[None] for n, v in sizes.items()}, request.call)] = answers
    return sizes | {name: value[0] for name, value in answers.conditioning().items()}


def _answers(model: LoadedModel, text: Tensors, call: Mapping[str, Any], media: Mapping[str, Any]) -> Answers:
    """What encoders answer on the way to the first denoiser call."""
    with (
        capture.leave_at_denoiser(model.denoisers),
        given_media.recording(model) as answers,
        capture.first_asked(model.pipe),
        model.encoders_on_device(),
    ):
        idle = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None)
        capture.ask(model.pipe, idle, **{**call_arguments(model, text, call), **media, "generator": _discarded()})
    if not answers.by_call:
        raise ModelError(f"{model.architecture} encodes none of {', '.join(media)}", "see data.media")
    return answers


def _templates_key(conditioning: Tensors, call: Mapping[str, Any]) -> tuple[Any, ...]:
    return "templates", given_media.signature(conditioning), frozen(call)


def _templates(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> Answers:
    """The form of encoders' answers; asked for with blank media where another process has encoded the real ones."""
    key = _templates_key(conditioning, call)
    if key not in model.memo:
        text = {n: v[:1] for n, v in conditioning.items() if not given_media.is_stand_in(n)}
        with torch.no_grad():
            model.memo[key] = _answers(model, text, call, given_media.blank(conditioning))
    return model.memo[key]  # type: ignore[no-any-return]


def ask(model: LoadedModel, scheduler: Any, conditioning: Tensors, call: Mapping[str, Any], **more: Any) -> Any:
    """:func:`omni_rl.model.capture.ask` with everything ``__call__`` is given besides latents, and ``more``."""
    arguments = {**call_arguments(model, conditioning, call), **more}
    if not given_media.signature(conditioning):
        return capture.ask(model.pipe, scheduler, **arguments)
    with given_media.answering(model, conditioning, _templates(model, conditioning, call)):
        return capture.ask(model.pipe, scheduler, **arguments)


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> Tensors:
    """(B, ...) tensors by the names under which ``__call__`` takes them back."""
    if not hasattr(model.pipe, "encode_prompt"):
        raise ModelError(f"{model.architecture} has no encode_prompt whose outputs its __call__ takes back", _PLUGIN)
    text = text_arguments(prompts, negative_prompts)
    with (
        capture.leave_at_denoiser(model.denoisers),
        capture.recording_method(model.pipe, "encode_prompt") as calls,
        capture.first_asked(model.pipe),
        model.encoders_on_device(),
    ):
        idle = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None)
        capture.ask(model.pipe, idle, generator=_discarded(), **text, **_minimal(call))
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    found: dict[str, Any] = {}
    for index, (arguments, result) in enumerate(calls):
        second = index > 0 and "negative_prompt" not in arguments  # a call of its own for the negative prompts
        negative = second and arguments.get("prompt") == text.get("negative_prompt", ())
        named = _named_outputs(model, result, "negative_" if negative else "")
        found |= {name: value for name, value in named if name in parameters}
    return _checked_rows(model, _with_masks(found), len(prompts))


def text_arguments(prompts: Sequence[str], negative_prompts: Sequence[str] | None) -> dict[str, list[str]]:
    """Prompts as ``__call__`` takes them."""
    text = {"prompt": list(prompts)}
    return text if negative_prompts is None else {**text, "negative_prompt": list(negative_prompts)}


def _with_masks(found: Mapping[str, Any]) -> Tensors:
    """Tensors only; a mask that is None beside its embeddings says that all tokens count, other Nones that there are
    none (negative embeddings without guidance).
    """
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    for name, value in found.items():
        embeds = name.replace("_attention_mask", "_embeds").removesuffix("_mask")
        if name.endswith("_mask") and value is None and embeds in tensors:
            tensors[name] = torch.ones_like(tensors[embeds][..., 0], dtype=torch.long)  # (B, L)
    return tensors


def _discarded() -> torch.Generator:
    """For latents that a pipeline draws before it can be stopped: nothing but their shape is looked at."""
    return torch.Generator().manual_seed(0)


def _minimal(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "num_inference_steps": 1, "output_type": "latent", "return_dict": False}


def _named_outputs(model: LoadedModel, result: Any, prefix: str) -> list[tuple[str, Any]]:
    names = return_names(type(model.pipe).encode_prompt)
    values = result if isinstance(result, tuple) else (result,)
    if len(names) != len(values):
        raise ModelError(
            f"{model.architecture}.encode_prompt returns {len(values)} values but names {len(names)}: {names}", _PLUGIN
        )
    return [(prefix + n, v) for n, v in zip(names, values, strict=True)]


@lru_cache
def return_names(function: Any) -> tuple[str, ...]:
    """The variable names in a function's last return statement: ``return a, b`` gives ``("a", "b")``.

    diffusers names these variables as its ``__call__`` names the arguments that take them back.

    Raises:
        ModelError: the statement returns something other than plain names, or there is no source to read.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError as error:
        raise ModelError(f"{function.__qualname__} has no source that tells its outputs' names", _PLUGIN) from error
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)][-1:]
    nodes = [n for value in returned for n in (value.elts if isinstance(value, ast.Tuple) else [value])]
    names = tuple(n.id for n in nodes if isinstance(n, ast.Name))
    if not names or len(names) < len(nodes):
        what = f"{function.__qualname__} does not return plain names, so its outputs cannot be passed back"
        raise ModelError(what, _PLUGIN)
    return names


def _checked_rows(model: LoadedModel, found: Tensors, rows: int) -> Tensors:
    wrong = {n: tuple(v.shape) for n, v in found.items() if v.shape[:1] != (rows,)}
    if wrong or not found:
        what = f"embeddings of unexpected shape {wrong}" if wrong else "no embeddings that its __call__ takes back"
        raise ModelError(f"{model.architecture}.encode_prompt gives {what}", _PLUGIN)
    return found


@hookimpl
def prepare_latents(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes per stream, found by letting the pipeline draw its own latents once for one row."""
    return {name: shape for name, (_, shape) in _streams(model, conditioning, call).items()}


def _streams(
    model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Stream name -> (``__call__`` parameter, shape of one sample); found once, by whichever hook is called first."""
    key = ("streams", given_media.signature(conditioning), frozen(call))
    if key not in model.memo:
        with torch.no_grad(), capture.first_asked(model.pipe):
            model.memo[key] = _find_streams(model, {n: v[:1] for n, v in conditioning.items()}, call)
    return model.memo[key]  # type: ignore[no-any-return]


def _find_streams(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Stream name -> (``__call__`` parameter, shape of one sample)."""
    probe = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None)
    ask(model, probe, row, call, generator=_discarded())
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    others = [p for p in parameters if p.endswith("_latents") and not p.startswith(("image", "init", "cond"))]
    names = [n for n in ("latents", *others) if n in parameters][: len(probe.samples)]
    if len(names) < len(probe.samples) or not names:
        what = f"{model.architecture} steps {len(probe.samples)} latent streams but __call__ takes {names}"
        raise ModelError(what, _PLUGIN)
    streams = {
        ("x" if n == "latents" else n.removesuffix("_latents")): (n, tuple(s.shape[1:]))
        for n, s in zip(names, probe.samples, strict=True)
    }
    _check_taken_back(model, row, call, streams)
    return streams


def _check_taken_back(
    model: LoadedModel, row: Tensors, call: Mapping[str, Any], streams: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    """Latents given as arguments must reach the denoising loop unchanged, or replay would be of something else."""
    given = {param: torch.full((1, *shape), 0.5, device=model.device) for param, shape in streams.values()}
    probe = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=len(streams))
    ask(model, probe, row, call, **given)
    for (param, _), sample in zip(streams.values(), probe.samples, strict=True):
        if sample.shape != given[param].shape or not torch.allclose(sample.float(), given[param]):
            raise ModelError(
                f"{model.architecture} changes the latents it is given as {param}= before it steps them", _PLUGIN
            )


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> SigmaTable:
    """The table of the pipeline's own scheduler, after the pipeline itself has set it."""
    key = ("table", steps, given_media.signature(conditioning), frozen(call))
    if key not in model.memo:
        row = {n: v[:1] for n, v in conditioning.items()}
        model.memo[key] = _ask_table(model, steps, row, shapes, call)
    return model.memo[key]  # type: ignore[no-any-return]


def _ask_table(
    model: LoadedModel, steps: int, row: Tensors, shapes: Mapping[str, Sequence[int]], call: Mapping[str, Any]
) -> SigmaTable:
    table = capture.Table(model.pipe.scheduler)
    latents = {
        p: torch.zeros((1, *shapes[s]), device=model.device) for s, p in latent_parameters(model, row, call).items()
    }
    ask(model, table, row, call, **latents, num_inference_steps=steps)
    made = SigmaTable(table.timesteps.float().cpu(), table.sigmas.float().cpu())
    FlowMatchSDEDiscreteScheduler().set_table(made.timesteps, made.sigmas)  # refuses what is no flow-matching schedule
    return made


def latent_parameters(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, str]:
    """Stream name -> the ``__call__`` parameter that takes its latents."""
    return {stream: param for stream, (param, _) in _streams(model, conditioning, call).items()}


@hookimpl
def predict(model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """One undecorated single-step call of the pipeline, in the largest batches that it takes (see ``batching``)."""
    step = single_step(model, call)
    equal = bool((t == t[0]).all())
    if equal and (len(t) == 1 or not given_media.signature(conditioning)):  # of rows with media not all take a batch
        return step(x, t[0], conditioning)
    return in_rows(step, x, t, conditioning, batching_mode(model, step, x, t, conditioning, call))


def batching_mode(
    model: LoadedModel, step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Mode:
    """What batches of rows the pipeline takes with these arguments; measured at timesteps ``t`` (B,), or near them."""
    key = ("batching", frozen(call))
    if key not in model.memo:
        if bool((t == t[0]).all()):
            t = torch.cat([t[:-1], t[-1:] / 2])
        with torch.no_grad():
            model.memo[key] = fastest_mode(step, x, t, conditioning, 1e-4 if model.dtype == torch.float32 else 5e-2)
    return model.memo[key]  # type: ignore[no-any-return]


def single_step(model: LoadedModel, call: Mapping[str, Any]) -> SingleStep:
    """The pipeline's velocity as a function of x, one timestep (0-d, or (B,) where it allows that) and conditioning."""

    def step(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        one = capture.OneStep(model.pipe.scheduler, t, streams=len(x))
        given = latent_arguments(model, x, conditioning, call)
        ask(model, one, conditioning, call, **given)
        return {name: v.float() for name, v in zip(x, one.velocities, strict=True)}

    return step


def latent_arguments(
    model: LoadedModel, x: Streams, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Latents under the names by which ``__call__`` takes them."""
    return {parameter: x[stream] for stream, parameter in latent_parameters(model, conditioning, call).items()}


def call_arguments(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Any]:
    """Everything else ``__call__`` is given: embeddings in the model's precision, and a generator nobody may use.

    Embeddings stand in for the texts, which are None then: some pipelines have another default.
    """
    own = {n: v for n, v in conditioning.items() if not given_media.is_stand_in(n)}
    cast = {n: v.to(model.input_dtype) if v.is_floating_point() else v for n, v in own.items()}
    texts = [n for n in ("prompt", "negative_prompt") if f"{n}_embeds" in conditioning]
    media = given_media.blank(conditioning)
    return {"generator": ForbiddenGenerator(), **dict.fromkeys(texts), **cast, **media, **_minimal(call)}


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    """The pipeline's own decoding, reached by one step whose outcome is the final latents."""
    rows = len(next(iter(latents.values())))
    size = 1 if model.memo.get(("batching", frozen(call))) == "single" else rows

    def part(tensors: Tensors, start: int) -> Tensors:
        return {name: value[start : start + size] for name, value in tensors.items()}

    parts = [_decoded(model, part(latents, i), part(conditioning, i), call) for i in range(0, rows, size)]
    return {kind: torch.cat([media[kind] for media in parts]) for kind in parts[0]}


def _decoded(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    final = [x.to(model.dtype) for x in latents.values()]  # what decoders of this precision take
    step = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, instead=final)
    given = latent_arguments(model, latents, conditioning, call)
    with capture.denoisers_silenced(model.denoisers), model.encoders_on_device():
        outputs = ask(model, step, conditioning, call, **given, output_type="pt")
    media = dict(_medium(output) for output in outputs if isinstance(output, torch.Tensor))
    return media | _rates(model, media, call)


def _medium(output: torch.Tensor) -> tuple[str, torch.Tensor]:
    """diffusers: images (B, 3, H, W), videos (B, F, 3, H, W), audio (B, C, S)."""
    return {4: "image", 5: "video", 3: "audio"}[output.ndim], output


def _rates(model: LoadedModel, media: Tensors, call: Mapping[str, Any]) -> Tensors:
    """Frames and sound samples per second, where the pipeline's arguments or components tell them."""
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    default = parameters["frame_rate"].default if "frame_rate" in parameters else None
    sound = (getattr(m.config, "output_sampling_rate", None) for m in model.modules.values() if hasattr(m, "config"))
    known = {"video": call.get("frame_rate") or default, "audio": next((rate for rate in sound if rate), None)}
    rates = {kind: float(rate) for kind, rate in known.items() if isinstance(rate, (int, float))}
    return {kind + RATE: torch.full((len(media[kind]),), rates[kind]) for kind in media.keys() & rates.keys()}
