"""What crosses a border between core's rooms, plugins and processes: hooks, requests, types, interfaces.

Each name is loaded when it is first asked for, so importing this package imports no torch. A new one stands below three
times: imported for type checkers, in ``_MODULES`` and in ``__all__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.contracts.hooks import CONTRACT_MAJOR, CONTRACT_MINOR, hookimpl
    from omni_rl.contracts.interfaces import Backend, Engine, Policy, SyncReport
    from omni_rl.contracts.media import Media, MediaKind, media_of, quantise
    from omni_rl.contracts.model import LoadedModel
    from omni_rl.contracts.requests import NO_STEPS, Request, Sde, Window
    from omni_rl.contracts.reward import Reward, RewardBatch, Scores
    from omni_rl.contracts.schema import Config
    from omni_rl.contracts.traits import Compatibility
    from omni_rl.contracts.types import (
        NO_CONDITION,
        NO_TOKENS,
        DenoiseState,
        Evaluation,
        LossOutput,
        Sample,
        SigmaTable,
        Streams,
        Tensors,
    )

_MODULES = {
    "omni_rl.contracts.hooks": ("CONTRACT_MAJOR", "CONTRACT_MINOR", "hookimpl"),
    "omni_rl.contracts.interfaces": ("Backend", "Engine", "Policy", "SyncReport"),
    "omni_rl.contracts.media": ("Media", "MediaKind", "media_of", "quantise"),
    "omni_rl.contracts.model": ("LoadedModel",),
    "omni_rl.contracts.requests": ("NO_STEPS", "Request", "Sde", "Window"),
    "omni_rl.contracts.reward": ("Reward", "RewardBatch", "Scores"),
    "omni_rl.contracts.schema": ("Config",),
    "omni_rl.contracts.traits": ("Compatibility",),
    "omni_rl.contracts.types": (
        "NO_CONDITION",
        "NO_TOKENS",
        "DenoiseState",
        "Evaluation",
        "LossOutput",
        "Sample",
        "SigmaTable",
        "Streams",
        "Tensors",
    ),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "CONTRACT_MAJOR",
    "CONTRACT_MINOR",
    "NO_CONDITION",
    "NO_STEPS",
    "NO_TOKENS",
    "Backend",
    "Compatibility",
    "Config",
    "DenoiseState",
    "Engine",
    "Evaluation",
    "LoadedModel",
    "LossOutput",
    "Media",
    "MediaKind",
    "Policy",
    "Request",
    "Reward",
    "RewardBatch",
    "Sample",
    "Scores",
    "Sde",
    "SigmaTable",
    "Streams",
    "SyncReport",
    "Tensors",
    "Window",
    "hookimpl",
    "media_of",
    "quantise",
]
