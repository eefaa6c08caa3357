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
"""The hooks that run in the engine. An engine must call those that a plugin of the run overrides."""


@dataclass(frozen=True)
class Context:
    """Everything that a run passes to its engine and its backend.

    Attributes:
        config: the resolved configuration.
        options: the plugin's own validated ``Config``, or None when it has none.
        load_model: loads the pipeline, with all weights frozen, into this process; every call loads it again. A backend
            that shards its weights may load them itself, from ``config.model``.
        hooks: the run's bound hooks.
        spec: rebuilds the same hooks in another process.
        traits: what the algorithm needs, e.g. which copies of the weights are kept and which copy samples.
        shared_model: for an engine in the backend's process: the backend's model, whose weights it may sample with;
            otherwise None.
        load_as_stored: as ``load_model``, for a backend that shards the denoisers: they stay on the CPU, in the dtype
            of their files if fp32 holds it exactly, and are to be sharded before they are moved and converted.
    """

    config: Config
    options: Any
    load_model: Callable[[], LoadedModel]
    hooks: Any
    spec: RunSpec
    traits: AlgorithmTraits = field(default_factory=AlgorithmTraits)
    shared_model: LoadedModel | None = None
    load_as_stored: Callable[[], LoadedModel] | None = None

    def model(self) -> LoadedModel:
        """The shared model if there is one, otherwise a newly loaded one."""
        return self.shared_model or self.load_model()
