"""The universal adapter: core's default model hooks, which run the upstream pipeline itself.

Whatever the pipeline does (kind of guidance, renormalisation, sign, scale of timesteps, packing), rollout and replay do
too, because it is the same code. Every hook runs the pipeline's ``__call__`` as far as it needs
(:mod:`omni_rl.universal.capture`):

* ``encode_prompt``: up to the first denoiser call; the outputs of the pipeline's own ``encode_prompt`` are named by its
  return statement (``return prompt_embeds, pooled_prompt_embeds, text_ids``) and kept if ``__call__`` takes them back.
* ``prepare_condition``: up to the first denoiser call; the outputs of autoencoders and image encoders are kept
  (:mod:`omni_rl.universal.media_conditioning`).
* ``prepare_latents``: one step; the samples that reach ``scheduler.step`` are the streams, in that order.
* ``set_timesteps``: up to the first ``scheduler.step`` of the pipeline's own scheduler.
* ``predict``: one step whose timestep is ``t``; what reaches ``scheduler.step`` is the velocity.
* ``decode_latents``: one step with a silent denoiser and a scheduler that returns the final latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.model import Cache, LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import NO_CONDITION, NO_TOKENS, SigmaTable, Streams, Tensors
from omni_rl.errors import ModelError
from omni_rl.model.boundary import foreign
from omni_rl.model.encoding import once
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler
from omni_rl.universal import decoding, media_conditioning, scheduler_stand_ins
from omni_rl.universal.ask import ask, encoded_media, latent_arguments, streams_of
from omni_rl.universal.batch_probes import batching_mode, known_mode, measure_rows, single_step, takes_one_row
from omni_rl.universal.batching import in_rows
from omni_rl.universal.media_conditioning import CallKey
from omni_rl.universal.noised_starts import refuse_late_start
from omni_rl.universal.prompt_outputs import text_arguments
from omni_rl.universal.text_encoding import encode_texts

EULER = "choose FlowMatchEulerDiscreteScheduler in the folder's model_index.json and scheduler/scheduler_config.json"
"""What to do about a scheduler that cannot be used."""


class _TableKey(NamedTuple):
    steps: int
    call: CallKey


_TABLES = Cache[_TableKey, SigmaTable]()


@hookimpl
def tokenize() -> Tensors:
    """Nothing: the pipeline tokenises by itself."""
    return NO_TOKENS


@hookimpl
def prepare_condition(model: LoadedModel, requests: Sequence[Request]) -> Tensors:
    """The encoded media of the requests, encoded once for each prompt."""
    return conditioning_from_media(model, requests)


def conditioning_from_media(model: LoadedModel, requests: Sequence[Request]) -> Tensors:
    """(B, ...) by name: the outputs of the encoders for the requests' media, once for each prompt; for plugins."""
    if not requests[0].media:
        return NO_CONDITION
    rows = [once(model, request, lambda r: encoded_media(model, r)) for request in requests]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@hookimpl
def encode_prompt(
    model: LoadedModel, prompts: Sequence[str], negative_prompts: Sequence[str] | None, call: Mapping[str, Any]
) -> Tensors:
    """(B, ...) tensors by the names under which ``__call__`` takes them back."""
    measure_rows(model, negative_prompts is not None, call)
    return encode_texts(model, text_arguments(prompts, negative_prompts), call)


@hookimpl
def prepare_latents(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes per stream, found by letting the pipeline draw its own latents once for one row."""
    return {name: stream.shape for name, stream in streams_of(model, conditioning, call).items()}


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> Mapping[str, SigmaTable]:
    """The table of the pipeline's own scheduler, after the pipeline itself has set it: one for all streams."""
    key = _TableKey(steps, CallKey.of(conditioning, call))
    table = _TABLES.get(model, key, lambda: _read_table(model, steps, shapes, conditioning, call))
    return dict.fromkeys(shapes, table)


def _read_table(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> SigmaTable:
    scheduler = scheduler_stand_ins.Table(model.pipe.scheduler)
    row = {n: v[:1] for n, v in conditioning.items()}
    x = {stream: torch.zeros((1, *shape), device=model.device) for stream, shape in shapes.items()}
    latents = latent_arguments(model, x, row, call)
    with model.compute():
        ask(model, scheduler, row, call, **latents, num_inference_steps=steps)
    name = type(model.pipe.scheduler).__name__
    with foreign(f"the table of {name} cannot be read", EULER):
        timesteps, sigmas = (values.float().cpu() for values in (scheduler.timesteps, scheduler.sigmas))
    if timesteps.unique().numel() < len(timesteps):
        what = f"{name} repeats timesteps: it computes several velocities in one step, and core's Euler steps one"
        raise ModelError(what, EULER)
    refuse_late_start(model, timesteps, scheduler.first)
    table = SigmaTable(timesteps, sigmas if scheduler.sign > 0 else 1 - sigmas)
    FlowMatchSDEDiscreteScheduler().set_table(table.timesteps, table.sigmas)  # refuses what is no flow-matching table
    return table


@hookimpl
def predict(model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """One single-step call of the pipeline, in the largest batches that it takes (see ``batch_probes``)."""
    step = single_step(model, call)
    if takes_one_row(model, call):
        return in_rows(step, x, t, conditioning, "single")
    alone = len(t) == 1 or not media_conditioning.has_media(conditioning)  # rows with media may refuse to share a call
    if alone and bool((t == t[0]).all()):
        return step(x, t[0], conditioning)
    return in_rows(step, x, t, conditioning, batching_mode(model, x, conditioning, call))


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    """The pipeline's own decoding, reached by one step whose outcome is the final latents.

    In one batch, unless the pipeline or its autoencoder takes none.
    """
    rows = len(next(iter(latents.values())))
    mode = known_mode(model, conditioning, call) or "single"  # not measured where a plugin computes velocities
    media = media_conditioning.has_media(conditioning) and mode == "single"
    apart = media or takes_one_row(model, call) or len(media_conditioning.alike(conditioning, rows)) > 1
    return decoding.decode(model, latents, conditioning, call, apart)
