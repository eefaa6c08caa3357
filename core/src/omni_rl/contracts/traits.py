"""What an algorithm needs from the rest of a run; its hook ``traits`` returns this. Does not import torch."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic.dataclasses import dataclass

from omni_rl.schedulers.types import SdeType

Copy = Literal["trained", "old", "ema", "reference"]
"""A set of values of the trained weights: current, the algorithm's old policy, moving average, or initial."""

Trained = Literal["lora", "full"]


@dataclass(frozen=True)
class AlgorithmTraits:
    """What an algorithm needs, given its options.

    Attributes:
        offline: it learns from stored data; no sample is drawn for training.
        samples_with: the copy of the weights that samples in the rollout.
        keeps: the copies of the weights that it uses in addition to the trained ones.
        needs_groups: its advantages compare several samples of one prompt.
        whole_sequence: one call of ``compute_loss`` needs all stored steps of a sample (one ratio per trajectory).
        clip_range: (low, high) clip range of its ratio; None if it does not clip. The gate compares it with rounding.
        sde: SDE types that it supports; empty for an algorithm that samples without noise.
        engines, backends: names of those that it supports; None: all.
        trained: what it can train: LoRA adapters, all weights, or both.

    Raises:
        ValueError: a value has a wrong type, or ``samples_with`` is a copy that ``keeps`` does not list.
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

    def __post_init__(self) -> None:
        if self.samples_with not in {"trained", *self.keeps}:
            raise ValueError(f"samples_with is {self.samples_with}, but keeps does not list this copy")
