"""Architectures without a pipeline in vLLM-Omni: diffusers' own pipeline, in the processes of vLLM-Omni.

Velocities, schedule and decoding are computed by core's hooks, as in the engine ``diffusers``. vLLM-Omni's adapter
loads the pipeline, and its scheduler batches whole requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from vllm_omni.diffusion.data import DiffusionOutput
from vllm_omni.diffusion.distributed.utils import get_local_device
from vllm_omni.diffusion.models.diffusers_adapter import DiffusersAdapterPipeline

from omni_rl.authoring.engine import Asked, from_pipe
from omni_rl_vllm_omni.rollout import Rollout


class DiffusersRollout(Rollout, DiffusersAdapterPipeline):
    """One class for all such architectures."""

    supports_request_batch = True

    def __init__(self, *, od_config: Any, prefix: str = "") -> None:
        device = get_local_device()
        super().__init__(od_config=od_config, device=device)
        super().load_weights()
        self.model = from_pipe(self._pipeline, path=Path(od_config.model), device=device, dtype=od_config.dtype)
        self.model.hooks = self.rollout_hooks
        for name, module in self.model.modules.items():
            self.add_module(name, module)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]] = ()) -> set[str]:
        """Load weights; their names are those of the diffusers pipeline."""
        parameters = dict(self.named_parameters())
        for name, weight in weights:
            parameters[name].data.copy_(weight)
        return set(parameters)

    def _own_loop(self, req: Any, asked: Sequence[Asked]) -> list[DiffusionOutput]:
        state, hooks, call = self._begin(asked), self.rollout_hooks, asked[0].request.call
        given = {n for n, v in req.prompts[0].items() if isinstance(v, torch.Tensor)}
        state.conditioning = {n: torch.stack([p[n] for p in req.prompts]).to(self.device) for n in sorted(given)}
        while not state.done:
            (velocity,) = hooks.denoise_step(model=self.model, states=[state])
            self._advance(state, velocity)
        decoded = hooks.decode_latents(model=self.model, latents=state.x, conditioning=state.conditioning, call=call)
        return self._answers(state, [decoded])
