"""What the gate reads of a run: exactly this, whoever puts it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from omni_rl.contracts.interfaces import Backend, Engine, SyncReport
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.plugins.manager import Hooks
from omni_rl.rewards.runner import RewardRunner


@dataclass(frozen=True)
class Sampler:
    """Model, dispatch and engine: all that drawing a sample takes."""

    model: LoadedModel
    hooks: Hooks
    engine: Engine


@dataclass(frozen=True)
class Trainer(Sampler):
    """And what the trainer's rows look at.

    Attributes:
        config: the resolved configuration.
        backend: owner of the weights.
        policy_version: what samples are to carry.
        sync: gives the engine the trained weights under that version.
        clip_range: (low, high) of the algorithm's ratio; None if it clips none.
    """

    config: Config
    backend: Backend
    policy_version: int
    sync: Callable[[], SyncReport]
    clip_range: tuple[float, float] | None


@dataclass(frozen=True)
class Subject(Trainer):
    """And the rest of what the gate judges.

    Attributes:
        requests: the first iteration's.
        rewards: of training.
        overridden, overridden_above_model: hooks that a plugin answers in core's place; in the model plugin's, too.
        diffuse_reason: why the denoising loop is replaced; None when core's runs.
    """

    requests: Sequence[Request]
    rewards: RewardRunner
    overridden: frozenset[str]
    overridden_above_model: frozenset[str]
    diffuse_reason: str | None
