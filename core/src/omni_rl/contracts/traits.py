"""What an algorithm runs with: declared by its plugin, enforced by ``omni-rl check``, rendered in the documentation.

An algorithm's class says it in an attribute ``compatibility``; without one it runs with everything. This module imports
no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from omni_rl.contracts.requests import SdeType
from omni_rl.contracts.schema import Config

Trained = Literal["lora", "full"]
Place = tuple[str, ...]
"""A key of the configuration, by its parts."""


@dataclass(frozen=True)
class Compatibility:
    """What an algorithm is right for.

    Attributes:
        sde: transitions; none for an algorithm that draws its samples without noise.
        engines, backends: by name; None for all that there are.
        trained: adapters, all weights, or either.
    """

    sde: tuple[SdeType, ...] = get_args(SdeType)
    engines: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None
    trained: tuple[Trained, ...] = get_args(Trained)


FORWARD_PROCESS = Compatibility(sde=())
"""Of algorithms that learn from finished samples."""


def compatibility_of(algorithm: Any) -> Compatibility:
    """What an algorithm, or its class, declares."""
    declared: Compatibility = getattr(algorithm, "compatibility", Compatibility())
    return declared


def conflicts(config: Config, name: str, algorithm: Any) -> Iterator[tuple[Place, str, str]]:
    """(key, what is wrong, what to do) of everything that the algorithm ``name`` does not run with."""
    able = compatibility_of(algorithm)
    sde = config.rollout.sde
    if able.sde and sde.noise_level == 0:
        what = f"rollout.sde.noise_level is 0, and {name} compares densities of noisy steps"
        yield ("rollout", "sde", "noise_level"), what, "raise it, e.g. to 0.7"
    if able.sde and sde.type not in able.sde:
        yield ("rollout", "sde", "type"), *_not_among(f"transitions of type {sde.type}", name, able.sde)
    if able.engines is not None and config.rollout.engine not in able.engines:
        yield ("rollout", "engine"), *_not_among(f"the engine {config.rollout.engine}", name, able.engines)
    if able.backends is not None and config.train.backend not in able.backends:
        yield ("train", "backend"), *_not_among(f"the backend {config.train.backend}", name, able.backends)
    trained = "full" if config.model.lora is None else "lora"
    if trained not in able.trained:
        what = f"{name} trains {' or '.join(able.trained)} weights only"
        yield ("model", "lora"), what, "set model.lora, or leave it out"


def _not_among(what: str, name: str, able: tuple[str, ...]) -> tuple[str, str]:
    return f"{name} does not run with {what}", f"it runs with: {', '.join(able)}"
