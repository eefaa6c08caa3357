"""The arguments from which an engine and a backend are built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omni_rl.contracts.traits import AlgorithmTraits

if TYPE_CHECKING:
    from omni_rl.contracts.model import LoadedModel
    from omni_rl.contracts.schema import Config
    from omni_rl.contracts.spec import RunSpec

ENGINE_HOOKS = frozenset(
    {
        "build_scheduler",
        "decode_latents",
        "denoise_step",
        "diffuse",
        "encode_prompt",
        "post_decode",
        "predict",
        "prepare_condition",
        "prepare_encode",
        "prepare_latents",
        "set_timesteps",
        "step_scheduler",
        "tokenize",
    }
)
"""Hooks of sampling. An engine may honour them, and must honour those that a plugin of the run overrides."""


@dataclass(frozen=True)
class Context:
    """Everything that a run passes to its engine and its backend.

    Attributes:
        config: the resolved configuration.
        options: the plugin's own validated ``Config``, or None when it has none.
        load_model: loads the pipeline, frozen, into this process; every call loads it anew. A backend that shards its
            weights may load otherwise, from ``config.model``.
        hooks: the run's bound hooks.
        spec: rebuilds the same hooks in another process.
        traits: what the algorithm needs: which copies of the weights are kept, which one samples.
        shared_model: for an engine: the backend's loaded model, where both share this process; else None. It may sample
            with these weights.
    """

    config: Config
    options: Any
    load_model: Callable[[], LoadedModel]
    hooks: Any
    spec: RunSpec
    traits: AlgorithmTraits = field(default_factory=AlgorithmTraits)
    shared_model: LoadedModel | None = None

    def model(self) -> LoadedModel:
        """The shared model where there is one, else one loaded for the caller."""
        return self.shared_model or self.load_model()
