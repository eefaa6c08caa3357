"""What an engine and a backend are built from."""

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
"""Hooks that run where samples are drawn: what an engine may honour, and must when a run overrides them."""


@dataclass(frozen=True)
class Context:
    """Everything a run hands to its engine and its backend.

    Attributes:
        config: the resolved configuration.
        options: the plugin's own validated ``Config``, or None when it has none.
        model: the loaded model; the embedded engine samples from these very weights.
        hooks: the run's dispatch.
        plugins: the run's plugin objects (algorithm, pair, local files), for what they declare as attributes.
        spec: rebuilds the same dispatch in another process.
    """

    config: Config
    options: Any
    model: LoadedModel
    hooks: Any
    plugins: Sequence[object] = ()
    spec: RunSpec | None = None
