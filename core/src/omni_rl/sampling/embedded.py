"""The default engine: samples in the trainer's process from the trainer's own weights, through core's loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from omni_rl.contracts.batches import by_form
from omni_rl.contracts.interfaces import SyncReport
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample
from omni_rl.model.encoding import encode_ahead, forget
from omni_rl.plugins.context import ENGINE_HOOKS, Context
from omni_rl.sampling.batches import form
from omni_rl.schedulers.types import NoiseKey


class EmbeddedEngine:
    """Samples lazily: ``completed`` denoises one batch at a time, so that rewards work while the next one runs.

    Weights are shared with the trainer, so a sync moves nothing; it reports every trainable parameter as landed in
    itself, and advances the policy version that samples carry.
    """

    honours = ENGINE_HOOKS

    def __init__(self, context: Context) -> None:
        self._model = context.model
        self._hooks = context.hooks
        self._batch_size = context.config.rollout.batch_size
        self._waiting: deque[list[Request]] = deque()
        self._encoded: set[NoiseKey] = set()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests in batches that share their schedule, their sizes and their window's size."""
        size = self._batch_size
        self._encode(requests)
        for places in by_form(requests, form):
            alike = [requests[i] for i in places]
            self._waiting.extend(alike[i : i + size] for i in range(0, len(alike), size))

    def _encode(self, requests: Sequence[Request]) -> None:
        """Encode a submission's prompts together; a retry finds them as they were, at the same width."""
        keys = {request.key for request in requests}
        if keys <= self._encoded:
            return
        if not self._waiting:
            forget(self._model)
            self._encoded.clear()
        with torch.no_grad():
            encode_ahead(self._model, requests, self._batch_size)
        self._encoded |= keys

    def completed(self) -> Iterator[Sample]:
        """Denoise batch after batch."""
        while self._waiting:
            requests = self._waiting.popleft()
            with torch.no_grad():
                yield from self._hooks.diffuse(model=self._model, requests=requests)

    def sync(self, policy_version: int) -> SyncReport:
        """The engine's weights are the trainer's: every parameter has landed in itself."""
        return SyncReport(policy_version, {name: name for name in self._model.parameters()})

    def close(self) -> None:
        """Drop what was not sampled."""
        self._waiting.clear()
