"""Hooks, requests, types and interfaces that core's packages, plugins and processes share.

Each name is imported when it is first used, so importing this package does not import torch. A new name must be added
in three places below: the imports for type checkers, ``_MODULES`` and ``__all__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_rl._lazy import exporter

if TYPE_CHECKING:
    from omni_rl.contracts.context import ENGINE_HOOKS, Context
    from omni_rl.contracts.events import RunInfo, State
    from omni_rl.contracts.hooks import CONTRACT_MAJOR, CONTRACT_MINOR, hookimpl
    from omni_rl.contracts.interfaces import (
        Backend,
        Engine,
        Experience,
        ExperienceSource,
        Form,
        Launcher,
        Policy,
        SyncReport,
        TakesWeights,
        Tracker,
        Weights,
    )
    from omni_rl.contracts.media import Media, MediaKind, media_of, quantise
    from omni_rl.contracts.model import LoadedModel
    from omni_rl.contracts.prompts import PromptRow, PromptSet
    from omni_rl.contracts.requests import NO_STEPS, Request, Sde, Window
    from omni_rl.contracts.reward import Reward, RewardBatch, Scores
    from omni_rl.contracts.schema import Config
    from omni_rl.contracts.spec import RunSpec
    from omni_rl.contracts.traits import AlgorithmTraits, Copy
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
    from omni_rl.contracts.verdicts import Row, Verdict

_MODULES = {
    "omni_rl.contracts.context": (
        "Context",
        "ENGINE_HOOKS",
    ),
    "omni_rl.contracts.events": (
        "RunInfo",
        "State",
    ),
    "omni_rl.contracts.hooks": (
        "CONTRACT_MAJOR",
        "CONTRACT_MINOR",
        "hookimpl",
    ),
    "omni_rl.contracts.interfaces": (
        "Backend",
        "Engine",
        "Experience",
        "ExperienceSource",
        "Form",
        "Launcher",
        "Policy",
        "SyncReport",
        "TakesWeights",
        "Tracker",
        "Weights",
    ),
    "omni_rl.contracts.media": (
        "Media",
        "MediaKind",
        "media_of",
        "quantise",
    ),
    "omni_rl.contracts.model": ("LoadedModel",),
    "omni_rl.contracts.prompts": (
        "PromptRow",
        "PromptSet",
    ),
    "omni_rl.contracts.requests": (
        "NO_STEPS",
        "Request",
        "Sde",
        "Window",
    ),
    "omni_rl.contracts.reward": (
        "Reward",
        "RewardBatch",
        "Scores",
    ),
    "omni_rl.contracts.schema": ("Config",),
    "omni_rl.contracts.spec": ("RunSpec",),
    "omni_rl.contracts.traits": (
        "AlgorithmTraits",
        "Copy",
    ),
    "omni_rl.contracts.types": (
        "DenoiseState",
        "Evaluation",
        "LossOutput",
        "NO_CONDITION",
        "NO_TOKENS",
        "Sample",
        "SigmaTable",
        "Streams",
        "Tensors",
    ),
    "omni_rl.contracts.verdicts": (
        "Row",
        "Verdict",
    ),
}
__getattr__ = exporter(__name__, _MODULES)
__all__ = [
    "CONTRACT_MAJOR",
    "CONTRACT_MINOR",
    "ENGINE_HOOKS",
    "NO_CONDITION",
    "NO_STEPS",
    "NO_TOKENS",
    "AlgorithmTraits",
    "Backend",
    "Config",
    "Context",
    "Copy",
    "DenoiseState",
    "Engine",
    "Evaluation",
    "Experience",
    "ExperienceSource",
    "Form",
    "Launcher",
    "LoadedModel",
    "LossOutput",
    "Media",
    "MediaKind",
    "Policy",
    "PromptRow",
    "PromptSet",
    "Request",
    "Reward",
    "RewardBatch",
    "Row",
    "RunInfo",
    "RunSpec",
    "Sample",
    "Scores",
    "Sde",
    "SigmaTable",
    "State",
    "Streams",
    "SyncReport",
    "TakesWeights",
    "Tensors",
    "Tracker",
    "Verdict",
    "Weights",
    "Window",
    "hookimpl",
    "media_of",
    "quantise",
]
