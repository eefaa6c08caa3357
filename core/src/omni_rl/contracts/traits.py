"""What an algorithm runs with: declared by its plugin, enforced by ``omni-rl check``, rendered in the documentation.

An algorithm's class says it in an attribute ``compatibility``; without one it runs with everything. This module imports
no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from omni_rl.schedulers.types import SdeType

Trained = Literal["lora", "full"]


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
