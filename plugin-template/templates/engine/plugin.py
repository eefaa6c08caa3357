"""The engine ``{{ cookiecutter.key }}``: samples from a replica of the model, on a device of its own if you like.

The trainer keeps its weights and the replica has its own, so a sync really moves them. Several batches are under way
at once (continuous batching): each turn of the loop takes one step of every batch, a finished one makes room for the
next, and rewards work while the others go on.

What of the model's hooks an engine calls, it calls through ``context.hooks``: the phases ``prepare_encode``,
``denoise_step``, ``step_scheduler`` and ``post_decode`` hold core's only denoising loop, and with it draws, schedule,
log-probs and trajectory. Replace :class:`Replica` by what you sample with.
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
    """Draws ``rollout.batch_size`` samples together, ``batches`` such batches in turn."""

    class Config(BaseModel):
        """Options beside ``engine: {{ cookiecutter.key }}`` in the section ``rollout``."""

        model_config = ConfigDict(extra="forbid")

        replica_device: str | None = Field(default=None, description="where it computes; null for the trainer's device")
        batches: PositiveInt = Field(default=2, description="batches under way at once")

    honours = ENGINE_HOOKS - {"diffuse"}  # the loop is here; a run that overrides it is refused

    supplies: frozenset[str] = frozenset()  # the model is the pipeline's own, not another implementation of it
    notices: Sequence[str] = ()  # sentences about what it does otherwise than asked, for `omni-rl check`

    def __init__(self, context: Context) -> None:
        options = context.options or self.Config()
        self._hooks = context.hooks
        self._batch_size, self._batches = context.config.rollout.batch_size, options.batches
        self._replica = Replica(context, options.replica_device)
        self.takes_weights: TakesWeights = "merged" if context.config.model.lora is None else "adapter"
        self._waiting: deque[Request] = deque()
        self._version = 0

    def submit(self, requests: Sequence[Request]) -> None:
        """Encode the prompts of a submission together, at one width, and queue it."""
        if not self._waiting:
            forget(self._replica.model)
        with torch.no_grad():
            encode_ahead(self._replica.model, requests, self._batch_size)
        self._waiting.extend(requests)

    def completed(self) -> Iterator[Sample]:
        """Samples, as their batches end."""
        under_way: list[DenoiseState] = []
        while self._waiting or under_way:
            while self._waiting and len(under_way) < self._batches:
                under_way.append(self._begin(self._next_batch()))
            self._step(under_way)
            for state in [each for each in under_way if each.done]:
                under_way.remove(state)
                yield from self._finish(state)

    def sync(self, policy_version: int, weights: Weights) -> SyncReport:
        """Copy every weight; the receipt says where each one is now."""
        landed = self._replica.load(weights)
        self._version = policy_version
        return SyncReport(policy_version, landed)

    def close(self) -> None:
        """Drop what was not sampled. End processes and free memory here."""
        self._waiting.clear()

    def _next_batch(self) -> list[Request]:
        """Neighbours of one form: schedule, arguments, sizes and the size of their window."""
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
        """One denoising step of every state, wherever each one stands."""
        velocities = self._hooks.denoise_step(model=self._replica.model, states=states)
        for state, velocity in zip(states, velocities, strict=True):
            self._hooks.step_scheduler(model=self._replica.model, state=state, velocity=velocity)

    @torch.no_grad()
    def _finish(self, state: DenoiseState) -> Sequence[Sample]:
        """Say the version that they were drawn with: a sync that went missing then stops the run."""
        samples: Sequence[Sample] = self._hooks.post_decode(model=self._replica.model, state=state)
        for sample in samples:
            if sample.trajectory is not None:
                sample.trajectory["policy_version"].fill_(self._version)
        return samples


class Replica:
    """The pipeline once more, with weights of its own."""

    def __init__(self, context: Context, device: str | None) -> None:
        loaded = context.load_model()
        self.device = loaded.device if device is None else torch.device(device)
        self.model = from_pipe(
            loaded.pipe, path=loaded.path, device=self.device, dtype=loaded.dtype, autocast=loaded.autocast
        )
        self.model.hooks = context.hooks
        make_trainable(self.model, context.config.model.lora, context.config.run_seed)

    def load(self, weights: Weights) -> dict[str, str]:
        """Copy weights by canonical name; answers where each one landed."""
        return {name: f"replica on {self.device}: {place}" for name, place in load(self.model, weights).items()}
