"""The rollout pipeline: vLLM-Omni's pipeline class of an architecture, with core's transitions instead of its own
steps.

With ``step_execution: true`` (continuous batching), the worker calls ``prepare_encode``, ``denoise_step``,
``step_scheduler`` and ``post_decode``. Otherwise it calls ``forward`` with a batch of requests, which runs the same
phases in a loop; a pipeline without these phases runs its own loop with :class:`RolloutScheduler`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import diffusers
import torch
from torch import nn
from vllm_omni.diffusion.data import DiffusionOutput
from vllm_omni.diffusion.models.interface import supports_step_execution
from vllm_omni.diffusion.registry import DiffusionModelRegistry
from vllm_omni.diffusion.worker.input_batch import InputBatch
from vllm_omni.diffusion.worker.utils import StepRequestState

from omni_rl.authoring.engine import Asked, Hooks, begin, packed, rebuild, recorded
from omni_rl.contracts.media import quantise
from omni_rl.contracts.spec import RunSpec
from omni_rl.contracts.types import DenoiseState, Streams
from omni_rl_vllm_omni.scheduler import RolloutScheduler
from omni_rl_vllm_omni.wire import asked_in

DECODED_TOGETHER = 16
"""Maximum number of images in one call of the autoencoder."""


class Rollout:
    """Mixin for a pipeline class of vLLM-Omni, which defines its attributes; see :func:`pipeline_class`."""

    od_config: Any
    device: torch.device
    scheduler: Any
    supports_step_execution: bool
    encode_prompt: Callable[..., Any]
    named_children: Callable[[], Iterable[tuple[str, nn.Module]]]

    def __init__(self, *, od_config: Any, **arguments: Any) -> None:
        super().__init__(od_config=od_config, **arguments)  # type: ignore[call-arg]
        spec = RunSpec.from_json(od_config.custom_pipeline_args["run_spec"])
        self.rollout_hooks = Hooks(rebuild(spec))
        self.policy_version = -1
        self.under_way: list[tuple[StepRequestState, torch.Tensor]] = []

    def take(self, policy_version: int) -> None:
        """Set the policy version of later samples. Frees the memory of the text encoders, which the worker does not
        use, and prepares embeddings in the pipeline's precision.
        """
        self.policy_version = policy_version
        for name, module in self.named_children():
            for weight in module.parameters() if name.startswith("text_encoder") else ():
                weight.data = weight.data.new_empty(0, dtype=self.od_config.dtype)

    def forward(self, req: Any) -> list[DiffusionOutput]:
        """Draw the samples of a batch of requests."""
        asked = [asked_in(prompt) for prompt in req.prompts]
        if asked[0] is None:  # vLLM-Omni's warm-up, with its own text
            return [_placeholder("image") for _ in asked]
        if supports_step_execution(self) and self.supports_step_execution:
            return self._phases(req)
        return self._own_loop(req, [a for a in asked if a is not None])

    def _phases(self, req: Any) -> list[DiffusionOutput]:
        states = [
            StepRequestState(request_id=r.request_id, sampling=copy.deepcopy(r.sampling_params), prompt=r.prompt)
            for r in req.requests
        ]
        for state in states:
            self.prepare_encode(state)
        running = states
        outputs: dict[int, DiffusionOutput] = {}
        while running:
            velocity = self.denoise_step(InputBatch.make_batch(running), states=running)
            assert velocity is not None, "whole requests are not interrupted"
            for row, state in enumerate(running):
                self.step_scheduler(state, velocity[row : row + 1])
            outputs |= {id(state): self.post_decode(state) for state in running if state.denoise_completed}
            running = [state for state in running if not state.denoise_completed]
        return [outputs[id(state)] for state in states]

    def _own_loop(self, req: Any, asked: Sequence[Asked]) -> list[DiffusionOutput]:
        state = self._begin(asked)
        for row, request in enumerate(req.requests):
            for stream, x in state.x.items():
                setattr(request.sampling_params, "latents" if stream == "x" else f"{stream}_latents", x[row : row + 1])
        with self._stepping(state):
            outputs = super().forward(req)  # type: ignore[misc]
        assert state.done, f"the pipeline took {state.step} of {len(state.table.timesteps)} steps"
        return self._answers(state, [_decoded(output) for output in outputs])

    @contextlib.contextmanager
    def _stepping(self, state: DenoiseState) -> Iterator[None]:
        own = self.scheduler
        device = next(iter(state.x.values())).device
        self.__dict__["scheduler"] = RolloutScheduler(own, state, self._advance, device)
        try:
            yield
        finally:
            self.__dict__["scheduler"] = own

    def prepare_encode(self, state: StepRequestState, **kwargs: Any) -> StepRequestState:
        """vLLM-Omni's preparation, with the run's embeddings, latents and schedule."""
        asked = asked_in(state.prompt)
        if asked is None:  # vLLM-Omni's warm-up, with its own text: steps without effect
            state.latents = torch.zeros(1, 1, 1)
            state.timesteps = torch.zeros(state.sampling.num_inference_steps)
            return state
        with self._embeddings_of(state.prompt):
            super().prepare_encode(state, **kwargs)  # type: ignore[misc]
        own = state.extra["rollout"] = self._begin([asked])
        state.latents = own.x["x"]
        state.timesteps = own.table.timesteps.to(own.x["x"].device)
        return state

    @contextlib.contextmanager
    def _embeddings_of(self, prompt: Mapping[str, Any]) -> Iterator[None]:
        """A context in which the pipeline's text encoding returns the embeddings that were sent with the prompt."""
        encode, signs = self.encode_prompt, iter(("", "negative_"))

        def given(**kwargs: Any) -> Any:
            sign = next(signs)
            names = ("prompt_embeds", "prompt_embeds_mask")
            mine = {n: prompt[sign + n][None].to(self.device) for n in names if sign + n in prompt}
            return encode(**{**kwargs, "prompt": None, **mine})

        self.__dict__["encode_prompt"] = given
        try:
            yield
        finally:
            del self.__dict__["encode_prompt"]

    def denoise_step(
        self, input_batch: InputBatch, states: Sequence[StepRequestState], **kwargs: Any
    ) -> torch.Tensor | None:
        """Velocities in fp32; the transformer receives latents in its own precision."""
        if input_batch.prompt_embeds is None:
            return torch.zeros_like(input_batch.latents)
        batch = copy.copy(input_batch)
        batch.latents = input_batch.latents.to(self.od_config.dtype)
        velocity: torch.Tensor | None = super().denoise_step(batch, states=states, **kwargs)  # type: ignore[misc]
        if velocity is None:
            return None
        velocity = velocity.float()
        self.under_way = list(zip(states, velocity.split(1), strict=True))
        return velocity

    def step_scheduler(self, state: StepRequestState, noise_pred: torch.Tensor, **kwargs: Any) -> None:
        """Core's transition, unless it was already done."""
        own = state.extra.get("rollout")
        if own is None:
            state.step_index += 1
            return
        if own.step == state.step_index:
            self._advance(own, {"x": noise_pred})
        state.latents, state.step_index = own.x["x"], own.step

    def post_decode(self, state: StepRequestState, **kwargs: Any) -> DiffusionOutput:
        """vLLM-Omni's decoding; the trajectory is returned with the media."""
        if "rollout" not in state.extra:
            return _placeholder("image")
        if "media" not in state.extra:
            self._decode_round(state, **kwargs)
        return self._answers(state.extra["rollout"], [state.extra["media"]])[0]

    def _decode_round(self, first: StepRequestState, **kwargs: Any) -> None:
        """Decode all requests that end with this step in one call, because an autoencoder takes several in little more
        time than one, while vLLM-Omni decodes one request at a time.
        """
        for state, velocity in self.under_way:
            own = state.extra["rollout"]
            if own.step == state.step_index and own.step + 1 == len(own.table.timesteps):
                self._advance(own, {"x": velocity})
        ending = [s for s, _ in self.under_way if s.extra["rollout"].done and _alike(s, first)]
        for start in range(0, len(ending), DECODED_TOGETHER):
            part = ending[start : start + DECODED_TOGETHER]
            whole = copy.copy(first)
            whole.latents = torch.cat([s.extra["rollout"].x["x"] for s in part]).to(self.od_config.dtype)
            decoded = _decoded(super().post_decode(whole, **kwargs))  # type: ignore[misc]
            for row, state in enumerate(part):
                state.extra["media"] = {kind: value[row : row + 1] for kind, value in decoded.items()}

    def _begin(self, asked: Sequence[Asked]) -> DenoiseState:
        requests = [a.request for a in asked]
        return begin(requests, asked[0].shapes, asked[0].tables, self.device)

    def _advance(self, state: DenoiseState, velocity: Streams) -> None:
        self.rollout_hooks.step_scheduler(model=self, state=state, velocity=velocity)

    def _answers(self, state: DenoiseState, decoded: Sequence[Mapping[str, torch.Tensor]]) -> list[DiffusionOutput]:
        """Outputs with the trajectories as bytes, in the only field that vLLM-Omni does not change."""
        media = {kind: torch.cat([quantise(kind, row[kind]) for row in decoded]) for kind in decoded[0]}
        rows = recorded(state, media)
        version = torch.full((len(rows),), self.policy_version, dtype=torch.int64)
        rows["policy_version"] = version
        flat = [dict(row.flatten_keys("/").items()) for row in rows.unbind(0)]
        return [_placeholder(next(iter(media)), packed(row)) for row in flat]


def _placeholder(kind: str, trajectory: torch.Tensor | None = None) -> DiffusionOutput:
    """An output with an image or video of one pixel: vLLM-Omni converts it, but nothing reads it."""
    pixel = torch.zeros({"image": (1, 3, 1, 1), "video": (1, 3, 1, 1, 1)}[kind])
    return DiffusionOutput(output=pixel, trajectory_latents=trajectory)


def _alike(a: StepRequestState, b: StepRequestState) -> bool:
    """Whether vLLM-Omni decodes both states with the same parameters."""
    shapes = [state.extra["rollout"].x["x"].shape for state in (a, b)]
    return shapes[0] == shapes[1] and (a.sampling.height, a.sampling.width) == (b.sampling.height, b.sampling.width)


def _decoded(output: DiffusionOutput) -> dict[str, torch.Tensor]:
    """Media in [0, 1] of one request, by kind, (1, ...): vLLM-Omni decodes to [-1, 1]."""
    media = getattr(output, "media", None)  # vLLM-Omni 0.26 has none
    if media is not None:
        return {"video": media.video.tensor.movedim(1, 2) / 2 + 0.5}  # (1, C, F, H, W) to (1, F, C, H, W)
    pixels = output.output
    kind = {4: "image", 5: "video"}[pixels.ndim]
    return {kind: pixels / 2 + 0.5}


@lru_cache
def pipeline_class(architecture: str) -> type:
    """The rollout pipeline of an architecture.

    Raises:
        AttributeError: neither vLLM-Omni nor diffusers has a pipeline of this name.
    """
    if architecture.startswith("_"):
        raise AttributeError(architecture)
    upstream = DiffusionModelRegistry._try_load_model_cls(architecture)
    if upstream is not None:
        return type(architecture, (Rollout, upstream), {"__module__": __name__})
    if not hasattr(diffusers, architecture):
        raise AttributeError(f"neither vLLM-Omni nor diffusers has a pipeline {architecture}")
    from omni_rl_vllm_omni.diffusers_own import DiffusersRollout

    return type(architecture, (DiffusersRollout,), {"__module__": __name__})


__getattr__ = pipeline_class  # vLLM-Omni needs a dotted name: omni_rl_vllm_omni.rollout.<Architecture>
