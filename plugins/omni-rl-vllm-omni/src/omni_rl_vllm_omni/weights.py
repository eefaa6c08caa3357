"""Loads weights in the engine's worker: with vLLM-Omni's own name mapping, located, and read back."""

from __future__ import annotations

from typing import Any

import torch
from vllm_omni.diffusion.worker.diffusion_worker import CustomPipelineWorkerExtension

from omni_rl.authoring.engine import Landing, Pipeline, locate, unpacked
from omni_rl_vllm_omni.adapters import activate


class WeightReceiver(CustomPipelineWorkerExtension):
    """Methods that vLLM-Omni adds to its worker (``worker_extension_cls``) and calls by name."""

    model_runner: Any
    lora_manager: Any

    def omni_rl_load(self, chunk: torch.Tensor) -> dict[str, str]:
        """Load some weights and read them back. Returns for each weight the parameter that holds it.

        Args:
            chunk: :func:`omni_rl.authoring.engine.packed` weights by canonical name.

        Raises:
            ValueError: no parameter holds a weight, or its values differ from those that were sent.
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
        """All weights have arrived: set the policy version of later samples."""
        self.model_runner.pipeline.take(policy_version)
        return policy_version

    def _pipeline(self) -> tuple[Pipeline, dict[str, Landing]]:
        """The pipeline, and the parameters that hold its weights."""
        pipeline = self.model_runner.pipeline
        return pipeline, pipeline.__dict__.setdefault("omni_rl_landings", {})


def _checked(pipeline: Pipeline, name: str, weight: torch.Tensor, landing: Landing) -> Landing:
    found = landing.value(pipeline)
    if found.shape != weight.shape or not torch.equal(found, weight.to(found)):
        raise ValueError(f"the weight {name} is not in {landing} after it was loaded")
    return landing
