"""The driver's side: requests to upstream's engine and back, and weights after every update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from tensordict import TensorDict

from omni_rl import trajectory
from omni_rl.engines.base import Context
from omni_rl.model.encoding import encode, encode_ahead, forget
from omni_rl.requests import Request
from omni_rl.types import Sample, SigmaTable, SyncReport, Tensors
from omni_rl_vllm_omni.merging import covers, trained
from omni_rl_vllm_omni.options import VllmOmniConfig
from omni_rl_vllm_omni.wire import KEY, Asked, packed, unpacked

DRIVER_HOOKS = frozenset({"build_scheduler", "encode_prompt", "prepare_latents", "set_timesteps", "tokenize"})
"""Answered in the driver, whose results travel with every request."""

WORKER_HOOKS = frozenset({"step_scheduler"})
"""Answered in the worker, from the same plugins."""


class VllmOmniEngine:
    """Samples in vLLM-Omni's processes.

    Prompts are encoded here, once per submission, so that the trainer's embeddings are the sampler's; the schedule is
    the run's, the noise is the keys', and the worker's transition is core's. What upstream supplies is the transformer,
    its batching and its decoding.
    """

    Config = VllmOmniConfig
    honours = DRIVER_HOOKS | WORKER_HOOKS
    supplies = frozenset({"predict", "decode_latents"})

    def __init__(self, context: Context) -> None:
        from omni_rl_vllm_omni.server import Server  # upstream takes ten seconds to import

        self._model, self._hooks, self._config = context.model, context.hooks, context.config
        self._options: VllmOmniConfig = context.options or VllmOmniConfig()
        self._waiting: list[Request] = []
        self._server = Server(**self._arguments(context))

    def _arguments(self, context: Context) -> dict[str, Any]:
        options, model = self._options, self._model
        return {
            "model": str(model.path),
            "dtype": str(model.dtype).removeprefix("torch."),
            "enforce_eager": True,
            "distributed_executor_backend": "mp",  # workers of their own, which can be waited for, and die alone
            "step_execution": options.step_execution,
            "max_num_seqs": options.max_num_seqs,
            "request_batch_max_wait_ms": options.max_wait_ms,
            "worker_extension_cls": "omni_rl_vllm_omni.weights.WeightReceiver",
            "custom_pipeline_args": {
                "pipeline_class": f"omni_rl_vllm_omni.pipelines.{model.architecture}",
                "run_spec": context.spec.to_json(),
            },
            **options.engine_args,
        }

    def submit(self, requests: Sequence[Request]) -> None:
        """Encode the prompts of a submission together and queue it."""
        if not self._waiting:
            forget(self._model)
        with torch.no_grad():
            encode_ahead(self._model, requests, self._config.rollout.batch_size)
        self._waiting += requests

    def completed(self) -> Iterator[Sample]:
        """Send everything, and hand over what comes back as it comes back."""
        asked = {}
        for ticket, request in enumerate(self._waiting):
            conditioning, tokens = encode(self._model, [request])
            asked[ticket] = (request, trajectory.text_entries(conditioning, tokens))
            self._server.ask(ticket, *self._message(request, conditioning))
        self._waiting = []
        while asked:
            ticket, answer = self._server.answer()
            yield _sample(*asked.pop(ticket), answer)

    def _message(self, request: Request, conditioning: Tensors) -> tuple[dict[str, Any], Any]:
        shapes = self._hooks.prepare_latents(model=self._model, conditioning=conditioning, call=request.call)
        table: SigmaTable = self._hooks.set_timesteps(
            model=self._model, steps=request.steps, shapes=shapes, conditioning=conditioning, call=request.call
        )
        embeddings = {n: self._sent(v[0]) for n, v in conditioning.items()}
        asked = Asked(request, {n: tuple(s) for n, s in shapes.items()}, table)
        # No text: embeddings stand in for it. An empty negative prompt says that there are negative ones.
        texts = {"prompt": ""} | ({"negative_prompt": ""} if request.negative_prompt is not None else {})
        return {**texts, **embeddings, KEY: asked.to_json()}, _sampling(request)

    def _sent(self, value: torch.Tensor) -> torch.Tensor:
        return (value.to(self._model.input_dtype) if value.is_floating_point() else value).cpu()

    def sync(self, policy_version: int) -> SyncReport:
        """Stream every trained weight; the worker reads each one back."""
        from omni_rl_vllm_omni.weights import chunks

        places: dict[str, str] = {}
        weights = trained(self._model, self._model.dtype)
        for part in chunks(weights, int(self._options.sync_mib * 2**20)):
            places |= self._server.call("omni_rl_load", packed(part))
        version = self._server.call("omni_rl_version", policy_version)
        inside = covers(self._model)
        return SyncReport(version, {name: place for sent, place in places.items() for name in inside[sent]})

    def close(self) -> None:
        """End upstream's processes."""
        self._waiting = []
        self._server.close()


def _sampling(request: Request) -> Any:
    """Upstream's parameters; arguments that it has no field for go where its pipelines look for their own."""
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams

    known = {field.name for field in fields(OmniDiffusionSamplingParams)}
    given = {name: value for name, value in request.call.items() if name in known}
    rest = {name: value for name, value in request.call.items() if name not in known}
    return OmniDiffusionSamplingParams(num_inference_steps=request.steps, seed=0, extra_args=rest, **given)


def _sample(request: Request, text: dict[str, Any], answer: Any) -> Sample:
    if isinstance(answer, BaseException):
        return Sample(request, error=f"{type(answer).__name__}: {answer}")
    rows = {tuple(name.split("/")): value for name, value in unpacked(answer.trajectory_latents).items()}
    found = TensorDict(rows, batch_size=[])
    found.update({name: _first(value) for name, value in text.items()})
    return Sample(request, found)


def _first(value: Any) -> Any:
    """The one row of a (1, ...) tensor, or of every tensor in a mapping."""
    return {n: v[0].cpu() for n, v in value.items()} if isinstance(value, dict) else value[0].cpu()
