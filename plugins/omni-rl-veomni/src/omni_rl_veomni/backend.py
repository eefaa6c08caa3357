"""Core's backend, with VeOmni's networks, sharding and clipping."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch

from omni_rl.authoring.backend import TorchBackend
from omni_rl.contracts.context import Context
from omni_rl.contracts.interfaces import Backend
from omni_rl.contracts.model import LoadedModel
from omni_rl_veomni import library


class VeOmniBackend(TorchBackend):
    """Trains VeOmni's networks. The loop over mini-batches, the loss, AdamW and checkpoints are those of ``torch``, so
    that a checkpoint of one backend resumes with the other.

    Raises:
        ConfigError: VeOmni cannot be imported, or has no network for the model.
    """

    def loaded(self, context: Context) -> LoadedModel:
        """The pipeline with VeOmni's networks."""
        library.load()
        from omni_rl_veomni import networks, sharding

        model = context.load_model()
        sharding.begin(model, context.config.train.replicas)
        networks.use(model)
        return model

    def shard(self) -> None:
        """Shard the weights with VeOmni's FSDP2."""
        from omni_rl_veomni import sharding

        sharding.shard(self.model)

    def clip(self, parameters: Sequence[torch.nn.Parameter], limit: float) -> float:
        """Clip with VeOmni's function, all denoisers together."""
        from veomni.distributed.fsdp2 import clip_grad_norm

        trained = [parameter for parameter in parameters if parameter.grad is not None]
        return float(clip_grad_norm(SimpleNamespace(parameters=lambda: trained), limit))

    def close(self) -> None:
        """Forget the arrangement of the ranks."""
        from omni_rl_veomni import sharding

        sharding.end()


_: type[Backend] = VeOmniBackend
