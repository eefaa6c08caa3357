"""The parts of a run that the gate checks. The gate reads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omni_rl.contracts.interfaces import Backend, Engine, SyncReport
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.plugins.manager import Hooks
from omni_rl.rewards.runner import RewardRunner


@dataclass(frozen=True)
class Sampler:
    """Model, hooks and engine: the parts that draw samples."""

    model: LoadedModel
    hooks: Hooks
    engine: Engine


@dataclass(frozen=True)
class Trainer(Sampler):
    """The parts that the checks of replay and weights need in addition.

    Attributes:
        config: the resolved configuration.
        backend: holds the trained weights.
        policy_version: the policy version that samples must have.
        sync: sends the trained weights with that version to the engine.
        clip_range: (low, high) clip range of the algorithm's ratio; None if it does not clip.
    """

    config: Config
    backend: Backend
    policy_version: int
    sync: Callable[[], SyncReport]
    clip_range: tuple[float, float] | None


@dataclass(frozen=True)
class Subject(Trainer):
    """All parts of a run that the gate checks.

    Attributes:
        requests: the requests of the first iteration.
        extremes: requests with the smallest and the largest value of each argument that differs from prompt to prompt.
        rewards, validation_rewards: the rewards.
        overridden: hooks of which a plugin overrides core's default.
        overridden_above_model: those of them that a stronger layer than the model plugin overrides.
        diffuse_reason: why a plugin replaces the denoising loop; None if core's loop runs.
        memory: a sentence about the memory of the weights; None: the gate gives that of the trained ones.
        suggested: arguments of ``rollout.call`` that a plugin's defaults set, and not the user.
    """

    requests: Sequence[Request]
    extremes: Mapping[str, Request]
    rewards: RewardRunner
    validation_rewards: RewardRunner
    overridden: frozenset[str]
    overridden_above_model: frozenset[str]
    diffuse_reason: str | None
    memory: str | None = None
    suggested: frozenset[str] = frozenset()
