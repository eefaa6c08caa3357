"""The universal adapter: core's default model hooks. They ask the upstream pipeline itself, so that whatever it does
(guidance flavour, renormalisation, sign, timestep scaling, packing) rollout and replay do, because it is the same code.

One question is asked in several ways: "run your ``__call__`` up to here" (:mod:`omni_rl.universal.capture`).

* ``encode_prompt``: up to the first denoiser call; the outputs of the pipeline's own ``encode_prompt`` are named by its
  return statement (``return prompt_embeds, pooled_prompt_embeds, text_ids``) and kept if ``__call__`` takes them back.
* ``prepare_condition``: up to the first denoiser call; what autoencoders and image encoders answered is kept
  (:mod:`omni_rl.universal.media_conditioning`).
* ``prepare_latents``: one step; the samples that reach ``scheduler.step`` are the streams, in that order.
* ``set_timesteps``: up to the first ``scheduler.step`` of the pipeline's own scheduler.
* ``predict``: one step whose timestep is ``t``; what reaches ``scheduler.step`` is the velocity.
* ``decode_latents``: one step with a silent denoiser and a scheduler that answers the final latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omni_rl.contracts.call import frozen
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import NO_CONDITION, NO_TOKENS, SigmaTable, Streams, Tensors
from omni_rl.errors import ModelError
from omni_rl.model.encoding import on_device, once
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler
from omni_rl.schedulers.randomness import randn
from omni_rl.universal import capture, decoding, media_conditioning, scheduler_stand_ins
from omni_rl.universal.ask import ask, encoded_media, latent_arguments, streams_of
from omni_rl.universal.batching import Mode, SingleStep, close, fastest_mode, in_groups, in_rows, rows_are_apart, take
from omni_rl.universal.embedding_rows import Forms, by_width, text_rows, to_rows
from omni_rl.universal.prompt_outputs import (
    NEEDS_PLUGIN,
    TWO_OF_ONE_LENGTH,
    TWO_TEXTS,
    forms_of,
    named_outputs,
    set_forms,
    text_arguments,
)


@hookimpl
def tokenize() -> Tensors:
    """The pipeline tokenises by itself."""
    return NO_TOKENS


@hookimpl
def prepare_condition(model: LoadedModel, requests: Sequence[Request]) -> Tensors:
    """What encoders make of the requests' media."""
    return conditioning_from_media(model, requests)


def conditioning_from_media(model: LoadedModel, requests: Sequence[Request]) -> Tensors:
    """(B, ...) by name: what encoders make of the requests' media, asked once for each prompt; for plugins, too."""
    if not requests[0].media:
        return NO_CONDITION
    rows = [once(model, request, lambda r: encoded_media(model, r)) for request in requests]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> Tensors:
    """(B, ...) tensors by the names under which ``__call__`` takes them back (see ``embeddings``).

    A pipeline without an ``encode_prompt``, whose denoiser reads tokens itself, is told the texts in every call.
    """
    _measure_rows(model, negative_prompts is not None, call)
    return _encoded(model, text_arguments(prompts, negative_prompts), call)


def _encoded(model: LoadedModel, texts: Mapping[str, Sequence[str]], call: Mapping[str, Any]) -> Tensors:
    if not hasattr(model.pipe, "encode_prompt"):
        return {n: v for argument, given in texts.items() for n, v in text_rows(argument, given).items()}
    rows = len(texts["prompt"])
    forms = forms_of(model, "negative_prompt" in texts, call)
    parts = [slice(i, i + 1) for i in range(rows)] if forms.one_by_one else [slice(0, rows)]
    outputs = [
        _present(named_outputs(model, {n: list(t[part]) for n, t in texts.items()}, call), forms) for part in parts
    ]
    found: Tensors = {}
    for name in outputs[0]:
        kind = forms.kinds.get(name, "rows")
        if kind == "fixed":
            raise ModelError(f"{model.architecture}.encode_prompt gives a {name} of no prompt's own", NEEDS_PLUGIN)
        found |= to_rows(name, [output[name] for output in outputs], kind)
    return _checked_rows(model, found, rows)


def _present(found: Mapping[str, Any], forms: Forms) -> dict[str, Any]:
    """Without what is None or empty: there is none (negative embeddings without guidance). A mask that is None beside
    embeddings of one width says that all tokens count.
    """
    present = {n: v for n, v in found.items() if isinstance(v, torch.Tensor) or (isinstance(v, list) and v)}
    absent = [name for name, value in found.items() if name.endswith("_mask") and value is None]
    for mask in absent:
        name = mask.replace("_attention_mask", "_embeds").removesuffix("_mask")
        embeds = present.get(name)
        if isinstance(embeds, torch.Tensor) and forms.kinds.get(name, "rows") == forms.kinds.get(mask, "rows"):
            present[mask] = torch.ones((len(embeds), embeds.shape[-2]), dtype=torch.long, device=embeds.device)
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
    return {name: stream.shape for name, stream in streams_of(model, conditioning, call).items()}


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> Mapping[str, SigmaTable]:
    """The table of the pipeline's own scheduler, after the pipeline itself has set it: one for all streams."""
    key = ("table", steps, media_conditioning.signature(conditioning), frozen(call))
    if key not in model.memo:
        row = {n: v[:1] for n, v in conditioning.items()}
        model.memo[key] = _ask_table(model, steps, row, shapes, call)
    return dict.fromkeys(shapes, model.memo[key])


def _ask_table(
    model: LoadedModel, steps: int, row: Tensors, shapes: Mapping[str, Sequence[int]], call: Mapping[str, Any]
) -> SigmaTable:
    table = scheduler_stand_ins.Table(model.pipe.scheduler)
    x = {stream: torch.zeros((1, *shape), device=model.device) for stream, shape in shapes.items()}
    given = latent_arguments(model, x, row, call)
    with model.compute():
        ask(model, table, row, call, **given, num_inference_steps=steps)
    sigmas = table.sigmas.float().cpu()
    made = SigmaTable(table.timesteps.float().cpu(), sigmas if table.sign > 0 else 1 - sigmas)
    FlowMatchSDEDiscreteScheduler().set_table(made.timesteps, made.sigmas)  # refuses what is no flow-matching schedule
    return made


@hookimpl
def predict(model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """One undecorated single-step call of the pipeline, in the largest batches that it takes (see ``batching``)."""
    step = single_step(model, call)
    if takes_one_row(model, call):
        return in_rows(step, x, t, conditioning, "single")
    equal = bool((t == t[0]).all())
    if equal and (
        len(t) == 1 or not media_conditioning.signature(conditioning)
    ):  # of rows with media not all take a batch
        return step(x, t[0], conditioning)
    return in_rows(step, x, t, conditioning, batching_mode(model, step, x, t, conditioning, call))


def takes_one_row(model: LoadedModel, call: Mapping[str, Any]) -> bool:
    """Whether rows of different prompts have to go one by one (see :func:`_measure_rows`)."""
    return bool(model.memo.get(("batching", frozen(call))) == "single")


def _measure_rows(model: LoadedModel, negative: bool, call: Mapping[str, Any]) -> None:
    """Two prompts of different length in one call against a call for each; once for each set of arguments.

    Some pipelines were written for one prompt at a time: they fail with two, or let the shorter one see its padding
    although a mask goes with it. The latter are given every prompt at its own length.
    """
    key = ("rows measured", negative, frozen(call))
    if key in model.memo or media_conditioning.among(call):  # prompts with media are encoded one by one
        return
    model.memo[key] = True
    with torch.no_grad(), capture.silent(model.pipe), capture.first_asked(model.pipe):
        two = _Asked.of(model, TWO_TEXTS, negative, call)
        found = forms_of(model, negative, call) if hasattr(model.pipe, "encode_prompt") else Forms({})
        if found.growing and not two.starts_like(_Asked.of(model, TWO_TEXTS[:1], negative, call)):
            set_forms(model, negative, call, found.by_width())
            two = _Asked.of(model, TWO_OF_ONE_LENGTH, negative, call)
        if not two.are_apart():
            model.memo["batching", frozen(call)] = "single"


@dataclass(frozen=True)
class _Asked:
    """A step in the middle of the schedule that is asked for, from noise, for some texts in one call."""

    model: LoadedModel
    step: SingleStep
    x: Streams
    t: torch.Tensor
    conditioning: Tensors

    @classmethod
    def of(cls, model: LoadedModel, prompts: Sequence[str], negative: bool, call: Mapping[str, Any]) -> _Asked:
        texts = text_arguments(prompts, prompts if negative else None)
        conditioning = on_device(model, _encoded(model, texts, call))
        found = streams_of(model, conditioning, call)
        x = {n: randn(0, (len(prompts), *stream.shape)).to(model.device) for n, stream in found.items()}
        half = torch.full((len(prompts),), model.pipe.scheduler.config.num_train_timesteps / 2, device=model.device)
        return cls(model, single_step(model, call), x, half, conditioning)

    def are_apart(self) -> bool:
        """Whether rows get the same velocities together as alone."""
        with self.model.compute():
            return rows_are_apart(self.step, self.x, self.t, self.conditioning, _tolerance(self.model))

    def starts_like(self, one: _Asked) -> bool:
        """Whether the first row's velocity is that of ``one``, whose text was encoded alone."""
        first = torch.tensor([0])
        with self.model.compute():
            padded = self.step(take(self.x, first), self.t[0], take(self.conditioning, first))
            alone = one.step(take(self.x, first), self.t[0], one.conditioning)
        return all(close(padded[n], alone[n], _tolerance(self.model)) for n in alone)


def _tolerance(model: LoadedModel) -> float:
    return 1e-4 if model.dtype == torch.float32 else 5e-2


def batching_mode(
    model: LoadedModel, step: SingleStep, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]
) -> Mode:
    """What batches of rows the pipeline takes with these arguments; measured at timesteps ``t`` (B,), or near them."""
    key = ("batching", frozen(call))
    if key not in model.memo:
        if bool((t == t[0]).all()):
            t = torch.cat([t[:-1], t[-1:] / 2])
        with torch.no_grad():
            model.memo[key] = fastest_mode(step, x, t, conditioning, _tolerance(model))
    return model.memo[key]  # type: ignore[no-any-return]


def single_step(model: LoadedModel, call: Mapping[str, Any]) -> SingleStep:
    """The pipeline's velocity as a function of x, one timestep (0-d, or (B,) where it allows that) and conditioning."""

    def step(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        one = scheduler_stand_ins.OneStep(model.pipe.scheduler, t, streams=len(x))
        given = latent_arguments(model, x, conditioning, call)
        ask(model, one, conditioning, call, **given)
        return {name: v.float() for name, v in zip(x, one.velocities, strict=True)}

    def group_by_group(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        groups = _taken_together(conditioning, len(next(iter(x.values()))))
        if len(groups) == 1:
            return step(x, t, conditioning)
        return in_groups(groups, lambda rows: step(take(x, rows), t[rows] if t.ndim else t, take(conditioning, rows)))

    return group_by_group


def _taken_together(conditioning: Tensors, rows: int) -> list[torch.Tensor]:
    """Indices (b,) of rows whose texts are of one width and whose pixels, as far as they are kept, are the same."""
    alike = media_conditioning.alike(conditioning, rows)
    return [same[part] for same in alike for part in by_width(take(conditioning, same), len(same))]


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    """The pipeline's own decoding, reached by one step whose outcome is the final latents.

    In one batch, unless the pipeline or its autoencoder takes none.
    """
    rows = len(next(iter(latents.values())))
    mode = model.memo.get(("batching", frozen(call)), "single")  # a plugin's velocity measures none
    media = bool(media_conditioning.signature(conditioning)) and mode == "single"
    apart = media or takes_one_row(model, call) or len(media_conditioning.alike(conditioning, rows)) > 1
    return decoding.decode(model, latents, conditioning, call, apart)
