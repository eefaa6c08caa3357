"""Weights on their way into the engine's worker: loaded by upstream's own mapping, located, and read back."""

from __future__ import annotations

from typing import Any

import torch
from vllm_omni.diffusion.worker.diffusion_worker import CustomPipelineWorkerExtension

from omni_rl.authoring.engine import Landing, Pipeline, locate, unpacked
from omni_rl_vllm_omni.adapters import activate


class WeightReceiver(CustomPipelineWorkerExtension):
    """Methods that upstream adds to its worker (``worker_extension_cls``) and calls by name."""

    model_runner: Any
    lora_manager: Any

    def omni_rl_load(self, chunk: torch.Tensor) -> dict[str, str]:
        """Load some weights and read them back; answers where each one landed.

        Args:
            chunk: :func:`omni_rl.authoring.engine.packed` weights by canonical name.

        Raises:
            ValueError: a weight landed nowhere, or is not what was sent.
        """
        pipeline, landings = self._pipeline()
        weights = unpacked(chunk)
        landings |= locate(pipeline, {name: w.shape for name, w in weights.items() if name not in landings})
        pipeline.load_weights(weights.items())
        return {name: str(_checked(pipeline, name, weights[name], landings[name])) for name in weights}

    def omni_rl_adapters(self, adapters: torch.Tensor, rank: int) -> dict[str, str]:
        """Load all adapters, unmerged; see :func:`omni_rl_vllm_omni.adapters.activate`."""
        return activate(self.lora_manager, *self._pipeline(), unpacked(adapters), rank)

    def omni_rl_version(self, policy_version: int) -> int:
        """Every weight has arrived: samples carry this version from now on."""
        self.model_runner.pipeline.take(policy_version)
        return policy_version

    def _pipeline(self) -> tuple[Pipeline, dict[str, Landing]]:
        """The pipeline, and where its weights were found to land."""
        pipeline = self.model_runner.pipeline
        return pipeline, pipeline.__dict__.setdefault("omni_rl_landings", {})


def _checked(pipeline: Pipeline, name: str, weight: torch.Tensor, landing: Landing) -> Landing:
    found = landing.value(pipeline)
    if found.shape != weight.shape or not torch.equal(found, weight.to(found)):
        raise ValueError(f"the weight {name} does not stand at {landing} after it was loaded there")
    return landing
