"""The engine ``{{ cookiecutter.key }}``: samples with a replica of the model, on any device.

The replica has its own weights, so a sync copies the trainer's weights. Several batches are computed at the same time
(continuous batching): each pass of the loop computes one step of every batch, the next batch starts when one has
finished, and rewards run during the other batches.

The engine calls model hooks through ``context.hooks``. The phases ``prepare_encode``, ``denoise_step``,
``step_scheduler`` and ``post_decode`` are core's denoising loop, which computes noise, schedule, log-probs and
trajectories. Replace :class:`Replica` by your sampler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from omni_rl.authoring.engine import encode_ahead, forget, form, from_pipe, load, make_trainable
from omni_rl.contracts import (
    ENGINE_HOOKS,
    Context,
    DenoiseState,
    Request,
    Sample,
    SyncReport,
    TakesWeights,
    Weights,
)
from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class ReplicaEngine:
    """Samples up to ``batches`` batches of ``rollout.batch_size`` samples at the same time."""

    class Config(BaseModel):
        """Options in the section ``rollout`` with ``engine: {{ cookiecutter.key }}``."""

        model_config = ConfigDict(extra="forbid")

        replica_device: str | None = Field(default=None, description="its device; null: the trainer's device")
        batches: PositiveInt = Field(default=2, description="batches computed at the same time")

    honours = ENGINE_HOOKS - {"diffuse"}  # this class has its own loop, so a run must not override it

    supplies: frozenset[str] = frozenset()  # the model is the diffusers pipeline, not another implementation
    notices: Sequence[str] = ()  # sentences for `omni-rl check` about settings that it does not follow

    def __init__(self, context: Context) -> None:
        options = context.options or self.Config()
        self._hooks = context.hooks
        self._batch_size, self._batches = context.config.rollout.batch_size, options.batches
        self._replica = Replica(context, options.replica_device)
        self.takes_weights: TakesWeights = "merged" if context.config.model.lora is None else "adapter"
        self._waiting: deque[Request] = deque()
        self._version = 0

    def submit(self, requests: Sequence[Request]) -> None:
        """Encode the prompts together, padded to one length, and queue the requests."""
        if not self._waiting:
            forget(self._replica.model)
        with torch.no_grad():
            encode_ahead(self._replica.model, requests, self._batch_size)
        self._waiting.extend(requests)

    def completed(self) -> Iterator[Sample]:
        """Yield the samples of each batch when it is finished."""
        running: list[DenoiseState] = []
        while self._waiting or running:
            while self._waiting and len(running) < self._batches:
                running.append(self._begin(self._next_batch()))
            self._step(running)
            for state in [each for each in running if each.done]:
                running.remove(state)
                yield from self._finish(state)

    def sync(self, policy_version: int, weights: Weights) -> SyncReport:
        """Copy every weight; the report says which parameter holds it."""
        landed = self._replica.load(weights)
        self._version = policy_version
        return SyncReport(policy_version, landed)

    def close(self) -> None:
        """Delete waiting requests. End processes and free memory here."""
        self._waiting.clear()

    def _next_batch(self) -> list[Request]:
        """The next requests with equal schedule, arguments, sizes and window size."""
        batch = [self._waiting.popleft()]
        while self._waiting and len(batch) < self._batch_size and form(self._waiting[0]) == form(batch[0]):
            batch.append(self._waiting.popleft())
        return batch

    @torch.no_grad()
    def _begin(self, batch: Sequence[Request]) -> DenoiseState:
        state: DenoiseState = self._hooks.prepare_encode(model=self._replica.model, requests=batch)
        return state

    @torch.no_grad()
    def _step(self, states: Sequence[DenoiseState]) -> None:
        """Compute the next denoising step of every state."""
        velocities = self._hooks.denoise_step(model=self._replica.model, states=states)
        for state, velocity in zip(states, velocities, strict=True):
            self._hooks.step_scheduler(model=self._replica.model, state=state, velocity=velocity)

    @torch.no_grad()
    def _finish(self, state: DenoiseState) -> Sequence[Sample]:
        """Decode, and store the policy version of the last sync: if a sync is missing, the run then stops."""
        samples: Sequence[Sample] = self._hooks.post_decode(model=self._replica.model, state=state)
        for sample in samples:
            if sample.trajectory is not None:
                sample.trajectory["policy_version"].fill_(self._version)
        return samples


class Replica:
    """A second copy of the pipeline, with its own weights."""

    def __init__(self, context: Context, device: str | None) -> None:
        loaded = context.load_model()
        self.device = loaded.device if device is None else torch.device(device)
        self.model = from_pipe(
            loaded.pipe, path=loaded.path, device=self.device, dtype=loaded.dtype, autocast=loaded.autocast
        )
        self.model.hooks = context.hooks
        make_trainable(self.model, context.config.model.lora, context.config.run_seed)

    def load(self, weights: Weights) -> dict[str, str]:
        """Copy weights by canonical name; returns the place of each weight."""
        return {name: f"replica on {self.device}: {place}" for name, place in load(self.model, weights).items()}
