"""The driver's part of the engine: sends requests to vLLM-Omni, returns samples, and sends weights after every
iteration.
"""

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
"""How often the engine may fail within one rollout before the run stops."""

DRIVER_HOOKS = frozenset({"build_scheduler", "encode_prompt", "prepare_latents", "set_timesteps", "tokenize"})
"""Hooks that run in the driver; their results are sent with every request."""

WORKER_HOOKS = frozenset({"step_scheduler"})
"""Hooks that run in the worker, with the same plugins."""


class VllmOmniEngine:
    """Samples in the processes of vLLM-Omni.

    Prompts are encoded here, once per submission, so that sampling and training use the same embeddings. The schedule
    is the run's, the noise comes from the requests' keys, and the worker uses core's transition. vLLM-Omni contributes
    the transformer, its batching and its decoding.
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
        from omni_rl_vllm_omni.server import Server  # vLLM-Omni needs ten seconds to import

        return Server(self._options.timeout_s, self._arguments)

    def _engine_arguments(self, context: Context) -> dict[str, Any]:
        options, model = self._options, self._model
        return {
            "model": str(model.path),
            "dtype": str(model.dtype).removeprefix("torch."),
            "enforce_eager": self._mode.native,  # vLLM-Omni's adapter of diffusers rejects this argument
            "distributed_executor_backend": "mp",  # in separate processes, which can be restarted after a failure
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
        """Encode the prompts of a submission together and queue the requests."""
        self._server.wake()
        if not self._waiting:
            forget(self._model)
        with torch.no_grad():
            encode_ahead(self._model, requests, self._config.rollout.batch_size)
        self._waiting += requests

    def completed(self) -> Iterator[Sample]:
        """Send all requests, and yield samples as they arrive."""
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
                raise RunError(f"vLLM-Omni failed {restarts} times in one rollout: {answer}")
            self._restart()
            self._send(asked)
        if self._options.sleep:
            self._server.sleep()

    def _send(self, asked: Mapping[int, Prepared]) -> None:
        """Send all requests at once, so that batches of whole requests are filled."""
        messages = [(ticket, *self._message(prepared)) for ticket, prepared in asked.items()]
        for message in messages:
            self._server.ask(*message)

    def _restart(self) -> None:
        """Start new processes with the weights of the current policy version."""
        self._server.close()
        self._server = self._start()
        self._take(self._version, self._sent.portions())

    def _message(self, prepared: Prepared) -> tuple[dict[str, Any], Any]:
        request = prepared.asked.request
        embeddings = {n: self._in_precision(v[0]) for n, v in prepared.conditioning.items()}
        # Embeddings replace the text. An empty negative prompt means that there are negative embeddings.
        texts = {"prompt": ""} | ({"negative_prompt": ""} if request.negative_prompt is not None else {})
        return {**texts, **embeddings, KEY: prepared.asked.to_json()}, _sampling(
            request, self.takes_weights == "adapter"
        )

    def _in_precision(self, value: torch.Tensor) -> torch.Tensor:
        return (value.to(self._model.dtype) if value.is_floating_point() else value).cpu()

    def sync(self, policy_version: int, weights: Weights) -> SyncReport:
        """Send every weight in the model's precision; the worker reads each one back."""
        cast = ((name, value.to("cpu", self._model.dtype)) for name, value in weights)
        return self._take(policy_version, self._sent.keeping(portions(cast, self._portion_bytes())))

    def _portion_bytes(self) -> int:
        """The size of a portion in bytes; adapters are small and are sent in one portion, as the worker needs all of
        them at once.
        """
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
        """End the processes of vLLM-Omni."""
        self._waiting = []
        self._server.close()
        self._sent.close()


def _sample(prepared: Prepared, answer: Any) -> Sample:
    """The sample from an answer of vLLM-Omni."""
    request = prepared.asked.request
    if isinstance(answer, BaseException):
        return Sample(request, error=f"{type(answer).__name__}: {answer}")
    rows = {tuple(name.split("/")): value for name, value in unpacked(answer.trajectory_latents).items()}
    found = TensorDict(rows, batch_size=[])
    text = trajectory.text_entries(prepared.conditioning, prepared.tokens)
    found.update({name: _first(value) for name, value in text.items()})
    return Sample(request, found)


def _sampling(request: Request, adapter: bool) -> Any:
    """vLLM-Omni's sampling parameters; arguments without a field are passed in the place where its pipelines look for
    them.
    """
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams
    from vllm_omni.lora.request import LoRARequest

    known = {field.name for field in fields(OmniDiffusionSamplingParams)}
    given = {name: value for name, value in request.call.items() if name in known}
    rest = {name: value for name, value in request.call.items() if name not in known}
    # vLLM-Omni switches adapters off for a request without one; the path is never read.
    lora = LoRARequest("omni-rl", ADAPTER_ID, "in-memory") if adapter else None
    return OmniDiffusionSamplingParams(
        num_inference_steps=request.steps, seed=0, extra_args=rest, lora_request=lora, **given
    )


def _first(value: Any) -> Any:
    """The only row of a (1, ...) tensor, or of every tensor in a mapping."""
    return {n: v[0].cpu() for n, v in value.items()} if isinstance(value, dict) else value[0].cpu()
