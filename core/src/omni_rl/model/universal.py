"""The universal adapter: core's default model hooks. They ask the upstream pipeline itself, so that whatever it does
(guidance flavour, renormalisation, sign, timestep scaling, packing) rollout and replay do, because it is the same code.

One question is asked in several ways: "run your ``__call__`` up to here" (:mod:`omni_rl.model.capture`).

* ``encode_prompt``: up to the first denoiser call; the outputs of the pipeline's own ``encode_prompt`` are named by its
  return statement (``return prompt_embeds, pooled_prompt_embeds, text_ids``) and kept if ``__call__`` takes them back.
* ``prepare_latents``: one step; the samples that reach ``scheduler.step`` are the streams, in that order.
* ``set_timesteps``: up to the first ``scheduler.step`` of the pipeline's own scheduler.
* ``predict``: one step whose timestep is ``t``; what reaches ``scheduler.step`` is the velocity.
* ``decode_latents``: one step with a silent denoiser and a scheduler that answers the final latents.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rl.errors import ModelError
from omni_rl.hookspecs import hookimpl
from omni_rl.model import capture, streams
from omni_rl.model.batching import Mode, SingleStep, fastest_mode, in_groups, in_rows, take
from omni_rl.model.embeddings import as_returned, by_width, to_rows
from omni_rl.model.loaded import LoadedModel, frozen
from omni_rl.model.prompt_outputs import NEEDS_PLUGIN, forms_of, named_outputs
from omni_rl.model.streams import Ask, Stream, find_streams
from omni_rl.randomness import ForbiddenGenerator
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler
from omni_rl.types import NO_CONDITION, NO_TOKENS, SigmaTable, Streams, Tensors


@hookimpl
def tokenize() -> Tensors:
    """The pipeline tokenises by itself."""
    return NO_TOKENS


@hookimpl
def prepare_condition() -> Tensors:
    """Nothing but the prompt conditions the sample."""
    return NO_CONDITION


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> Tensors:
    """(B, ...) tensors by the names under which ``__call__`` takes them back (see ``embeddings``)."""
    forms = forms_of(model, negative_prompts is not None, call)
    parts = [slice(i, i + 1) for i in range(len(prompts))] if forms.one_by_one else [slice(None)]
    outputs = [
        _present(named_outputs(model, prompts[p], None if negative_prompts is None else negative_prompts[p], call))
        for p in parts
    ]
    found: Tensors = {}
    for name in outputs[0]:
        kind = forms.kinds.get(name, "rows")
        if kind == "fixed":
            raise ModelError(f"{model.architecture}.encode_prompt gives a {name} of no prompt's own", NEEDS_PLUGIN)
        found |= to_rows(name, [output[name] for output in outputs], kind)
    return _checked_rows(model, found, len(prompts))


def _present(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None or empty: there is none (negative embeddings without guidance). A mask that is None beside
    its embeddings says that all tokens count.
    """
    present = {n: v for n, v in found.items() if isinstance(v, torch.Tensor) or (isinstance(v, list) and v)}
    for name, value in found.items():
        embeds = present.get(name.replace("_attention_mask", "_embeds").removesuffix("_mask"))
        if name.endswith("_mask") and value is None and isinstance(embeds, torch.Tensor):
            present[name] = torch.ones_like(embeds[..., 0], dtype=torch.long)  # (B, L)
    return present


def _checked_rows(model: LoadedModel, found: Tensors, rows: int) -> Tensors:
    wrong = {n: tuple(v.shape) for n, v in found.items() if v.shape[:1] != (rows,)}
    if wrong or not found:
        what = f"embeddings of unexpected shape {wrong}" if wrong else "no embeddings that its __call__ takes back"
        raise ModelError(f"{model.architecture}.encode_prompt gives {what}", NEEDS_PLUGIN)
    return found


@hookimpl
def prepare_latents(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes per stream, found by letting the pipeline draw its own latents once for one row."""
    return {name: stream.shape for name, stream in _streams(model, conditioning, call).items()}


def _streams(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Stream]:
    """By name; found once, by whichever hook is called first."""
    key = ("streams", frozen(call))
    if key not in model.memo:
        row = {n: v[:1] for n, v in conditioning.items()}

        def ask(**arguments: Any) -> capture.OneStep:
            one = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), arguments.pop("streams"))
            capture.ask(model.pipe, one, **{**call_arguments(model, row, call), **arguments})
            return one

        with torch.no_grad(), capture.first_asked(model.pipe):
            model.memo[key] = find_streams(model, _minding_idle_draws(model, ask, call))
    return model.memo[key]  # type: ignore[no-any-return]


def _minding_idle_draws(model: LoadedModel, ask: Ask, call: Mapping[str, Any]) -> Ask:
    """``ask``, which also finds out whether the pipeline draws noise although it is given latents.

    Some draw noise and multiply it by 0. That may be: two generators must then make no difference.

    Raises:
        AssertionError: it draws noise that counts.
    """

    def asked(**arguments: Any) -> capture.OneStep:
        try:
            return ask(**arguments)
        except (AssertionError, TypeError):
            first, second = (ask(**arguments, generator=capture.discarded(seed)) for seed in (0, 1))
            pairs = zip(first.samples + first.velocities, second.samples + second.velocities, strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                raise
            model.memo["idle draws", frozen(call)] = True
            return first

    return asked


def _generator(model: LoadedModel, call: Mapping[str, Any]) -> Any:
    return capture.discarded() if ("idle draws", frozen(call)) in model.memo else ForbiddenGenerator()


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> SigmaTable:
    """The table of the pipeline's own scheduler, after the pipeline itself has set it."""
    key = ("table", steps, frozen(call))
    if key not in model.memo:
        row = {n: v[:1] for n, v in conditioning.items()}
        model.memo[key] = _ask_table(model, steps, row, shapes, call)
    return model.memo[key]  # type: ignore[no-any-return]


def _ask_table(
    model: LoadedModel, steps: int, row: Tensors, shapes: Mapping[str, Sequence[int]], call: Mapping[str, Any]
) -> SigmaTable:
    table = capture.Table(model.pipe.scheduler)
    x = {stream: torch.zeros((1, *shape), device=model.device) for stream, shape in shapes.items()}
    arguments = {**call_arguments(model, row, call), "num_inference_steps": steps}
    capture.ask(model.pipe, table, **latent_arguments(model, x, row, call), **arguments)
    made = SigmaTable(table.timesteps.float().cpu(), table.sigmas.float().cpu())
    FlowMatchSDEDiscreteScheduler().set_table(made.timesteps, made.sigmas)  # refuses what is no flow-matching schedule
    return made


@hookimpl
def predict(model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """One undecorated single-step call of the pipeline, in the largest batches that it takes (see ``batching``)."""
    step = single_step(model, call)
    if bool((t == t[0]).all()):
        return step(x, t[0], conditioning)
    return in_rows(step, x, t, conditioning, batching_mode(model, step, x, t, conditioning, call))


def batching_mode(
    model: LoadedModel, step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Mode:
    """What batches of rows at different timesteps ``t`` (B,) the pipeline takes with these arguments."""
    key = ("batching", frozen(call))
    if key not in model.memo:
        with torch.no_grad():
            model.memo[key] = fastest_mode(step, x, t, conditioning, 1e-4 if model.dtype == torch.float32 else 5e-2)
    return model.memo[key]  # type: ignore[no-any-return]


def single_step(model: LoadedModel, call: Mapping[str, Any]) -> SingleStep:
    """The pipeline's velocity as a function of x, one timestep (0-d, or (B,) where it allows that) and conditioning."""

    def step(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        one = capture.OneStep(model.pipe.scheduler, t, streams=len(x))
        given = latent_arguments(model, x, conditioning, call)
        capture.ask(model.pipe, one, **given, **call_arguments(model, conditioning, call))
        return {name: v.float() for name, v in zip(x, one.velocities, strict=True)}

    def width_by_width(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        groups = by_width(conditioning, len(next(iter(x.values()))))
        if len(groups) == 1:
            return step(x, t, conditioning)
        return in_groups(groups, lambda rows: step(take(x, rows), t[rows] if t.ndim else t, take(conditioning, rows)))

    return width_by_width


def latent_arguments(
    model: LoadedModel, x: Streams, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Latents under the names by which ``__call__`` takes them."""
    return streams.arguments(_streams(model, conditioning, call), x)


def call_arguments(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Any]:
    """Everything else ``__call__`` is given: embeddings in the model's precision, and a generator nobody may use.

    Embeddings stand in for the texts, which are None then: some pipelines have another default.
    """
    given = as_returned({n: v.to(model.input_dtype) if v.is_floating_point() else v for n, v in conditioning.items()})
    negative = {name.startswith("negative_") for name in given}
    texts = [n for n in ("prompt", "negative_prompt") if (n != "prompt") in negative and n in _taken(model)]
    return {"generator": _generator(model, call), **dict.fromkeys(texts), **given, **capture.minimal(call)}


def _taken(model: LoadedModel) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(model.pipe).__call__).parameters


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    """The pipeline's own decoding, reached by one step whose outcome is the final latents."""
    final = [x.to(model.dtype) for x in latents.values()]  # what decoders of this precision take
    arguments = {**latent_arguments(model, latents, conditioning, call), **call_arguments(model, conditioning, call)}

    def decoded(**generator: Any) -> Tensors:
        step = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, instead=final)
        with capture.denoisers_silenced(model.denoisers), model.encoders_on_device():
            outputs = capture.ask(model.pipe, step, **{**arguments, **generator, "output_type": "pt"})
        return dict(_medium(output) for output in outputs if isinstance(output, torch.Tensor))

    media = decoded()
    if model.memo.get(("idle draws", frozen(call))) is True:  # of the loop; the decoder's have yet to be seen
        other = decoded(generator=capture.discarded(1))
        if not all(torch.equal(value, other[kind]) for kind, value in media.items()):
            raise ModelError(f"{model.architecture} draws noise of its own while it decodes", "see rollout.call")
        model.memo["idle draws", frozen(call)] = "of the decoder too"
    return media


def _medium(output: torch.Tensor) -> tuple[str, torch.Tensor]:
    """diffusers: images (B, 3, H, W), videos (B, F, 3, H, W), audio (B, C, S)."""
    return {4: "image", 5: "video", 3: "audio"}[output.ndim], output
