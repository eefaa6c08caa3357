"""Weights on their way into the engine's worker: loaded by upstream's own mapping, located, and read back.

Canonical names are diffusers': ``<component>.<parameter>``. Upstream fuses some of them (``to_q``, ``to_k``, ``to_v``
into ``to_qkv``); where each one lands is found once, by loading NaN under its name and looking where it appears.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from vllm_omni.diffusion.worker.diffusion_worker import CustomPipelineWorkerExtension

from omni_rl_vllm_omni.wire import unpacked


class Pipeline(Protocol):
    """What of an upstream pipeline is used here."""

    policy_version: int

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load by canonical name. What it answers differs from pipeline to pipeline."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The pipeline's own parameters."""

    def get_parameter(self, target: str) -> nn.Parameter:
        """One of them by name."""


@dataclass(frozen=True)
class Landing:
    """Rows ``first`` to ``last`` of one of the pipeline's own parameters."""

    parameter: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.parameter}[{self.first}:{self.last}]"

    def value(self, pipeline: Pipeline) -> torch.Tensor:
        """What stands there now."""
        return pipeline.get_parameter(self.parameter).data[self.first : self.last]


class WeightReceiver(CustomPipelineWorkerExtension):  # type: ignore[misc]  # upstream is untyped
    """Methods that upstream adds to its worker (``worker_extension_cls``) and calls by name."""

    model_runner: Any

    def omni_rl_load(self, chunk: torch.Tensor) -> dict[str, str]:
        """Load some weights and read them back; answers where each one landed.

        Args:
            chunk: :func:`omni_rl_vllm_omni.wire.packed` weights by canonical name.

        Raises:
            ValueError: a weight landed nowhere, or is not what was sent.
        """
        pipeline = self.model_runner.pipeline
        landings: dict[str, Landing] = pipeline.__dict__.setdefault("omni_rl_landings", {})
        weights = unpacked(chunk)
        for name in weights.keys() - landings.keys():
            landings[name] = locate(pipeline, name, weights[name])
        pipeline.load_weights(weights.items())
        return {name: str(_checked(pipeline, name, weights[name], landings[name])) for name in weights}

    def omni_rl_version(self, policy_version: int) -> int:
        """Every weight has arrived: samples carry this version from now on."""
        self.model_runner.pipeline.policy_version = policy_version
        return policy_version


def locate(pipeline: Pipeline, name: str, weight: torch.Tensor) -> Landing:
    """Where the weight ``name`` lands, found by loading NaN in its place; ``weight`` stands there afterwards."""
    pipeline.load_weights([(name, torch.full_like(weight, torch.nan))])
    near = name.rsplit(".", 2)[0]  # a fused weight stands in the same block; looking everywhere reads all weights
    own = sorted(pipeline.named_parameters(), key=lambda item: not item[0].startswith(near))
    for parameter, value in own:
        rows = value.data.reshape(len(value), -1)[:, 0].isnan().nonzero().flatten() if value.ndim else []
        if len(rows):
            pipeline.load_weights([(name, weight)])
            return Landing(parameter, int(rows[0]), int(rows[-1]) + 1)
    raise ValueError(f"the engine has no place for the weight {name}")


def _checked(pipeline: Pipeline, name: str, weight: torch.Tensor, landing: Landing) -> Landing:
    found = landing.value(pipeline)
    if found.shape != weight.shape or not torch.equal(found, weight.to(found)):
        raise ValueError(f"the weight {name} does not stand at {landing} after it was loaded there")
    return landing


def chunks(weights: Mapping[str, torch.Tensor], most: int) -> Iterable[dict[str, torch.Tensor]]:
    """Portions of at most ``most`` bytes, a larger weight alone."""
    part: dict[str, torch.Tensor] = {}
    size = 0
    for name, weight in weights.items():
        if part and size + weight.nbytes > most:
            yield part
            part, size = {}, 0
        part[name], size = weight, size + weight.nbytes
    if part:
        yield part
