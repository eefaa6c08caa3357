"""The arguments from which an engine and a backend are built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Config
from omni_rl.plugins.runspec import RunSpec

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
        model: the loaded model; the embedded engine samples with these weights.
        hooks: the run's bound hooks.
        plugins: the run's plugin objects (algorithm, pair, local files), for the attributes that they declare.
        spec: rebuilds the same hooks in another process.
    """

    config: Config
    options: Any
    model: LoadedModel
    hooks: Any
    plugins: Sequence[object] = ()
    spec: RunSpec | None = None
