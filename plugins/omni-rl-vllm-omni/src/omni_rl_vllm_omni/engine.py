"""The driver's side: requests to upstream's engine and back, and weights after every update."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict

from omni_rl.authoring.engine import Portion, Prepared, encode_ahead, forget, packed, portions, prepare, unpacked
from omni_rl.contracts import trajectory
from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import SyncReport, TakesWeights, Weights
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample
from omni_rl.errors import RunError
from omni_rl_vllm_omni.modes import mode_of
from omni_rl_vllm_omni.options import VllmOmniConfig
from omni_rl_vllm_omni.sent_weights import SentWeights
from omni_rl_vllm_omni.wire import ADAPTER_ID, KEY

if TYPE_CHECKING:
    from omni_rl_vllm_omni.server import Server

RESTARTS = 2
"""How often the engine may end within one rollout before the run gives up."""

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
        self._model, self._hooks, self._config = context.model(), context.hooks, context.config
        self._model.hooks = context.hooks
        self._options: VllmOmniConfig = context.options or VllmOmniConfig()
        self._mode = mode_of(self._model.architecture, self._options)
        self.notices: Sequence[str] = self._mode.notices
        adapters = context.config.model.lora is not None and self._options.lora == "adapter"
        self.takes_weights: TakesWeights = "adapter" if adapters else "merged"
        self._waiting: list[Request] = []
        self._version = 0
        self._arguments = self._engine_arguments(context)
        self._sent = SentWeights()
        self._server = self._start()

    def _start(self) -> Server:
        from omni_rl_vllm_omni.server import Server  # upstream takes ten seconds to import

        return Server(self._options.timeout_s, self._arguments)

    def _engine_arguments(self, context: Context) -> dict[str, Any]:
        options, model = self._options, self._model
        return {
            "model": str(model.path),
            "dtype": str(model.dtype).removeprefix("torch."),
            "enforce_eager": self._mode.native,  # upstream's adapter of diffusers refuses to be told what it is
            "distributed_executor_backend": "mp",  # in processes of its own: what dies there can be started again
            "step_execution": self._mode.step,
            "max_num_seqs": self._mode.together,
            "enable_sleep_mode": options.sleep,
            "request_batch_max_wait_ms": options.max_wait_ms,
            "worker_extension_cls": "omni_rl_vllm_omni.weights.WeightReceiver",
            "custom_pipeline_args": {
                "pipeline_class": f"omni_rl_vllm_omni.rollout.{model.architecture}",
                "run_spec": context.spec.to_json(),
            },
            **options.engine_args,
        }

    def submit(self, requests: Sequence[Request]) -> None:
        """Encode the prompts of a submission together and queue it."""
        self._server.wake()
        if not self._waiting:
            forget(self._model)
        with torch.no_grad():
            encode_ahead(self._model, requests, self._config.rollout.batch_size)
        self._waiting += requests

    def completed(self) -> Iterator[Sample]:
        """Send everything, and hand over what comes back as it comes back."""
        waiting, self._waiting = self._waiting, []
        asked = dict(enumerate(prepare(self._model, self._hooks, waiting)))
        self._send(asked)
        restarts = 0
        while asked:
            ticket, answer = self._server.answer()
            if not self._server.ended(answer):
                yield _sample(asked.pop(ticket), answer)
                continue
            restarts += 1
            if restarts > RESTARTS:
                raise RunError(f"vLLM-Omni ended {restarts} times in one rollout: {answer}")
            self._restart()
            self._send(asked)
        if self._options.sleep:
            self._server.sleep()

    def _send(self, asked: Mapping[int, Prepared]) -> None:
        """All at once, so that batches of whole requests fill up."""
        messages = [(ticket, *self._message(prepared)) for ticket, prepared in asked.items()]
        for message in messages:
            self._server.ask(*message)

    def _restart(self) -> None:
        """New processes with the weights of the policy version that was under way."""
        self._server.close()
        self._server = self._start()
        self._take(self._version, self._sent.portions())

    def _message(self, prepared: Prepared) -> tuple[dict[str, Any], Any]:
        request = prepared.asked.request
        embeddings = {n: self._in_precision(v[0]) for n, v in prepared.conditioning.items()}
        # No text: embeddings stand in for it. An empty negative prompt says that there are negative ones.
        texts = {"prompt": ""} | ({"negative_prompt": ""} if request.negative_prompt is not None else {})
        return {**texts, **embeddings, KEY: prepared.asked.to_json()}, _sampling(
            request, self.takes_weights == "adapter"
        )

    def _in_precision(self, value: torch.Tensor) -> torch.Tensor:
        return (value.to(self._model.dtype) if value.is_floating_point() else value).cpu()

    def sync(self, policy_version: int, weights: Weights) -> SyncReport:
        """Stream every weight in the model's precision; the worker reads each one back."""
        cast = ((name, value.to("cpu", self._model.dtype)) for name, value in weights)
        return self._take(policy_version, self._sent.keeping(portions(cast, self._portion_bytes())))

    def _portion_bytes(self) -> int:
        """Adapters are small, and the worker takes all of them at once."""
        return sys.maxsize if self.takes_weights == "adapter" else int(self._options.sync_mib * 2**20)

    def _take(self, policy_version: int, sent: Iterable[Portion]) -> SyncReport:
        self._version = policy_version
        self._server.wake()
        landed: dict[str, str] = {}
        for portion in sent:
            landed |= self._server.call(*self._loading(packed(portion)))
        return SyncReport(self._server.call("omni_rl_version", policy_version), landed)

    def _loading(self, data: torch.Tensor) -> tuple[Any, ...]:
        if self.takes_weights == "merged":
            return "omni_rl_load", data
        lora = self._config.model.lora
        assert lora is not None
        return "omni_rl_adapters", data, lora.rank

    def close(self) -> None:
        """End upstream's processes."""
        self._waiting = []
        self._server.close()
        self._sent.close()


def _sample(prepared: Prepared, answer: Any) -> Sample:
    """Upstream's answer as a sample."""
    request = prepared.asked.request
    if isinstance(answer, BaseException):
        return Sample(request, error=f"{type(answer).__name__}: {answer}")
    rows = {tuple(name.split("/")): value for name, value in unpacked(answer.trajectory_latents).items()}
    found = TensorDict(rows, batch_size=[])
    text = trajectory.text_entries(prepared.conditioning, prepared.tokens)
    found.update({name: _first(value) for name, value in text.items()})
    return Sample(request, found)


def _sampling(request: Request, adapter: bool) -> Any:
    """Upstream's parameters; arguments that it has no field for go where its pipelines look for their own."""
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams
    from vllm_omni.lora.request import LoRARequest

    known = {field.name for field in fields(OmniDiffusionSamplingParams)}
    given = {name: value for name, value in request.call.items() if name in known}
    rest = {name: value for name, value in request.call.items() if name not in known}
    # Upstream switches adapters off for a request that names none; the path is never looked at.
    lora = LoRARequest("omni-rl", ADAPTER_ID, "in-memory") if adapter else None
    return OmniDiffusionSamplingParams(
        num_inference_steps=request.steps, seed=0, extra_args=rest, lora_request=lora, **given
    )


def _first(value: Any) -> Any:
    """The one row of a (1, ...) tensor, or of every tensor in a mapping."""
    return {n: v[0].cpu() for n, v in value.items()} if isinstance(value, dict) else value[0].cpu()
