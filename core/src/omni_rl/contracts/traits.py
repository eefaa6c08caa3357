"""What an algorithm needs from the rest of a run: answered by its hook ``traits``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from omni_rl.schedulers.types import SdeType

Copy = Literal["trained", "old", "ema", "reference"]
"""Values of the trained weights: the current ones, an algorithm's old policy, their average, the initial ones."""

Trained = Literal["lora", "full"]


@dataclass(frozen=True)
class AlgorithmTraits:
    """The answer of an algorithm, with the options that it was configured with.

    Attributes:
        offline: it learns from stored data; no sample is drawn for training.
        samples_with: the weights that rollouts are drawn with.
        keeps: the copies of the trained weights that it uses beside the trained ones.
        needs_groups: its advantages compare several samples of one prompt.
        whole_sequence: one call of ``compute_loss`` must see all stored steps of a sample (one ratio per trajectory).
        clip_range: (low, high) of its ratio; None if it clips none. The gate compares it with rounding.
        sde: transitions that it is right for; none for an algorithm that draws its samples without noise.
        engines, backends: by name; None for all that there are.
        trained: adapters, all weights, or either.
    """

    offline: bool = False
    samples_with: Copy = "trained"
    keeps: frozenset[Copy] = frozenset()
    needs_groups: bool = True
    whole_sequence: bool = False
    clip_range: tuple[float, float] | None = None
    sde: tuple[SdeType, ...] = get_args(SdeType)
    engines: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None
    trained: tuple[Trained, ...] = get_args(Trained)
