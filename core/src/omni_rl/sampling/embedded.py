"""The default engine ``diffusers``: samples in this process with core's denoising loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence

import torch

from omni_rl.contracts.batches import by_form
from omni_rl.contracts.call import frozen
from omni_rl.contracts.context import ENGINE_HOOKS, Context
from omni_rl.contracts.interfaces import Engine, SyncReport, TakesWeights, Weights
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample
from omni_rl.model import weights as model_weights
from omni_rl.model.adapters import make_trainable
from omni_rl.model.encoding import encode_ahead, forget
from omni_rl.sampling.batches import form
from omni_rl.sampling.plan_requests import VALIDATION


class EmbeddedEngine:
    """``completed`` samples one batch at a time, so rewards run while the next batch is sampled.

    If the backend's model is in this process, the engine samples with it, and a sync copies nothing. Otherwise the
    engine loads its own model, a replica, and a sync copies the weights.
    """

    honours = ENGINE_HOOKS
    supplies: frozenset[str] = frozenset()
    notices: Sequence[str] = ()

    def __init__(self, context: Context) -> None:
        self._model = context.model()
        self._hooks = context.hooks
        self._config = context.config
        self._waiting: deque[list[Request]] = deque()
        self._encoded: set[Hashable] = set()
        self.takes_weights: TakesWeights = "none"
        if context.shared_model is None:
            lora = context.config.model.lora
            self.takes_weights = "merged" if lora is None else "adapter"
            self._model.hooks = context.hooks
            make_trainable(self._model, lora, context.config.run_seed)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests in batches with equal steps, sizes and window sizes."""
        size = self._batch_size(requests)
        self._encode(requests, size)
        for indices in by_form(requests, form):
            alike = [requests[i] for i in indices]
            self._waiting.extend(alike[i : i + size] for i in range(0, len(alike), size))

    def _batch_size(self, requests: Sequence[Request]) -> int:
        own = self._config.validation.batch_size if requests and requests[0].key.purpose == VALIDATION else None
        return own or self._config.rollout.batch_size

    def _encode(self, requests: Sequence[Request], size: int) -> None:
        """Encode the prompts of all requests together. A retry uses the same encodings, with the same padding."""
        keys = {(r.key, r.prompt, r.negative_prompt, frozen(r.call), frozen(r.media)) for r in requests}
        if keys <= self._encoded:
            return
        if not self._waiting:
            forget(self._model)
            self._encoded.clear()
        with torch.no_grad():
            encode_ahead(self._model, requests, size)
        self._encoded |= keys

    def completed(self) -> Iterator[Sample]:
        """Sample the queued batches, one after the other."""
        while self._waiting:
            requests = self._waiting.popleft()
            with torch.no_grad():
                yield from self._hooks.diffuse(model=self._model, requests=requests)

    def sync(self, policy_version: int, weights: Weights) -> SyncReport:
        """Copy the weights into the replica; copies nothing if the model is the backend's."""
        if self.takes_weights == "none":
            return SyncReport(policy_version, {name: name for name in self._model.parameters()})
        return SyncReport(policy_version, model_weights.load(self._model, weights))

    def close(self) -> None:
        """Delete all queued requests."""
        self._waiting.clear()


_: type[Engine] = EmbeddedEngine
