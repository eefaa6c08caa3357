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

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from omni_rl.errors import ModelError
from omni_rl.hookspecs import hookimpl
from omni_rl.model import capture
from omni_rl.model.batching import SingleStep, in_rows
from omni_rl.model.loaded import LoadedModel
from omni_rl.randomness import ForbiddenGenerator
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
    """(B, ...) tensors by the names under which ``__call__`` takes them back."""
    text: dict[str, Any] = {"prompt": list(prompts)}
    if negative_prompts is not None:
        negative_prompts = text["negative_prompt"] = list(negative_prompts)
    with (
        capture.leave_at_denoiser(model.denoisers),
        capture.recording_method(model.pipe, "encode_prompt") as calls,
        model.encoders_on_device(),
    ):
        idle = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None)
        capture.ask(model.pipe, idle, **text, **_minimal(call))
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    found: Tensors = {}
    for index, (arguments, result) in enumerate(calls):
        second_pass = index > 0 and "negative_prompt" not in arguments and arguments.get("prompt") == negative_prompts
        for name, value in _named_outputs(model, result, "negative_" if second_pass else ""):
            if name in parameters and isinstance(value, torch.Tensor):
                found[name] = value
            elif name in parameters and name.endswith("_mask") and value is None:
                found[name] = torch.ones_like(found[name.removesuffix("_mask")][..., 0], dtype=torch.long)  # all count
    return _checked_rows(model, found, len(prompts))


def _minimal(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "num_inference_steps": 1, "output_type": "latent", "return_dict": False}


def _named_outputs(model: LoadedModel, result: Any, prefix: str) -> list[tuple[str, Any]]:
    names = return_names(type(model.pipe).encode_prompt)
    values = result if isinstance(result, tuple) else (result,)
    if len(names) != len(values):
        raise ModelError(
            f"{model.architecture}.encode_prompt returns {len(values)} values but names {len(names)}: {names}"
        )
    return [(prefix + n, v) for n, v in zip(names, values, strict=True)]


@lru_cache
def return_names(function: Any) -> tuple[str, ...]:
    """The variable names in a function's last return statement: ``return a, b`` gives ``("a", "b")``.

    diffusers names these variables as its ``__call__`` names the arguments that take them back.

    Raises:
        ModelError: the statement returns something other than plain names.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)][-1]
    nodes = returned.elts if isinstance(returned, ast.Tuple) else [returned]
    if not all(isinstance(n, ast.Name) for n in nodes):
        raise ModelError(f"{function.__qualname__} does not return plain names, so its outputs cannot be passed back")
    return tuple(n.id for n in nodes if isinstance(n, ast.Name))


def _checked_rows(model: LoadedModel, found: Tensors, rows: int) -> Tensors:
    wrong = {n: tuple(v.shape) for n, v in found.items() if v.shape[:1] != (rows,)}
    if wrong or not found:
        what = f"embeddings of unexpected shape {wrong}" if wrong else "no embeddings that its __call__ takes back"
        raise ModelError(
            f"{model.architecture}.encode_prompt gives {what}", "this model needs a plugin: omni-rl new model"
        )
    return found


@hookimpl
def prepare_latents(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes per stream, found by letting the pipeline draw its own latents once for one row."""
    return {name: shape for name, (_, shape) in _streams(model, conditioning, call).items()}


def _streams(
    model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Stream name -> (``__call__`` parameter, shape of one sample); found once, by whichever hook is called first."""
    key = ("streams", _frozen(call))
    if key not in model.memo:
        with torch.no_grad():
            model.memo[key] = _find_streams(model, {n: v[:1] for n, v in conditioning.items()}, call)
    return model.memo[key]  # type: ignore[no-any-return]


def _find_streams(model: LoadedModel, row: Tensors, call: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Stream name -> (``__call__`` parameter, shape of one sample)."""
    probe = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None)
    generator = torch.Generator().manual_seed(0)  # its draws are discarded: only shapes are read
    capture.ask(model.pipe, probe, **{**call_arguments(model, row, call), "generator": generator})
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    others = [p for p in parameters if p.endswith("_latents") and not p.startswith(("image", "init", "cond"))]
    names = ["latents", *others][: len(probe.samples)]
    if len(names) < len(probe.samples) or not names:
        raise ModelError(f"{model.architecture} steps {len(probe.samples)} latent streams but __call__ takes {names}")
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
    capture.ask(model.pipe, probe, **given, **call_arguments(model, row, call))
    for (param, _), sample in zip(streams.values(), probe.samples, strict=True):
        if sample.shape != given[param].shape or not torch.allclose(sample.float(), given[param]):
            raise ModelError(
                f"{model.architecture} changes the latents it is given as {param}= before it steps them",
                "this model needs a plugin: omni-rl new model",
            )


@hookimpl
def set_timesteps(
    model: LoadedModel, steps: int, shapes: Mapping[str, Sequence[int]], conditioning: Tensors, call: Mapping[str, Any]
) -> SigmaTable:
    """The table of the pipeline's own scheduler, after the pipeline itself has set it."""
    key = ("table", steps, _frozen(call))
    if key not in model.memo:
        row = {n: v[:1] for n, v in conditioning.items()}
        model.memo[key] = _ask_table(model, steps, row, shapes, call)
    return model.memo[key]  # type: ignore[no-any-return]


def _ask_table(
    model: LoadedModel, steps: int, row: Tensors, shapes: Mapping[str, Sequence[int]], call: Mapping[str, Any]
) -> SigmaTable:
    check_flow_matching(model)
    table = capture.Table(model.pipe.scheduler)
    latents = {p: torch.zeros((1, *shapes[s]), device=model.device) for s, p in _parameters(model, row, call).items()}
    arguments = {**call_arguments(model, row, call), "num_inference_steps": steps}
    capture.ask(model.pipe, table, **latents, **arguments)
    return SigmaTable(table.timesteps.float().cpu(), table.sigmas.float().cpu())


def check_flow_matching(model: LoadedModel) -> None:
    """Refuse schedulers that do not integrate a velocity.

    Raises:
        ModelError: the scheduler predicts noise or samples.
    """
    scheduler = model.pipe.scheduler
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind != "flow_prediction":
        raise ModelError(
            f"{model.architecture} with {type(scheduler).__name__} predicts {kind!r}, not a flow-matching velocity",
            "omni-rl trains flow-matching pipelines; choose another model or scheduler",
        )


def _parameters(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, str]:
    return {stream: param for stream, (param, _) in _streams(model, conditioning, call).items()}


@hookimpl
def predict(model: LoadedModel, x: Streams, t: torch.Tensor, conditioning: Tensors, call: Mapping[str, Any]) -> Streams:
    """One undecorated single-step call of the pipeline, in the largest batches that it takes (see ``batching``)."""
    return in_rows(single_step(model, call), x, t, conditioning, mode=model.memo.get("batching", "grouped"))


def single_step(model: LoadedModel, call: Mapping[str, Any]) -> SingleStep:
    """The pipeline's velocity as a function of x, one timestep (0-d, or (B,) where it allows that) and conditioning."""

    def step(x: Streams, t: torch.Tensor, conditioning: Tensors) -> Streams:
        one = capture.OneStep(model.pipe.scheduler, t, streams=len(x))
        given = latent_arguments(model, x, conditioning, call)
        capture.ask(model.pipe, one, **given, **call_arguments(model, conditioning, call))
        return {name: v.float() for name, v in zip(x, one.velocities, strict=True)}

    return step


def latent_arguments(
    model: LoadedModel, x: Streams, conditioning: Tensors, call: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Latents under the names by which ``__call__`` takes them."""
    return {parameter: x[stream] for stream, parameter in _parameters(model, conditioning, call).items()}


def call_arguments(model: LoadedModel, conditioning: Tensors, call: Mapping[str, Any]) -> dict[str, Any]:
    """Everything else ``__call__`` is given: embeddings in the model's precision, and a generator nobody may use."""
    cast = {n: v.to(model.input_dtype) if v.is_floating_point() else v for n, v in conditioning.items()}
    return {"generator": ForbiddenGenerator(), **cast, **_minimal(call)}


@hookimpl
def decode_latents(model: LoadedModel, latents: Streams, conditioning: Tensors, call: Mapping[str, Any]) -> Tensors:
    """The pipeline's own decoding, reached by one step whose outcome is the final latents."""
    final = list(latents.values())
    step = capture.OneStep(model.pipe.scheduler, torch.tensor(1000.0), streams=None, instead=final)
    arguments = {**latent_arguments(model, latents, conditioning, call), **call_arguments(model, conditioning, call)}
    with capture.denoisers_silenced(model.denoisers), model.encoders_on_device():
        outputs = capture.ask(model.pipe, step, **{**arguments, "output_type": "pt"})
    return dict(_medium(output) for output in outputs if isinstance(output, torch.Tensor))


def _medium(output: torch.Tensor) -> tuple[str, torch.Tensor]:
    """diffusers: images (B, 3, H, W), videos (B, F, 3, H, W), audio (B, C, S)."""
    return {4: "image", 5: "video", 3: "audio"}[output.ndim], output


def _frozen(call: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, repr(v)) for k, v in call.items()))
