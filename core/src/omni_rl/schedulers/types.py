"""Types that schedulers, randomness and requests share. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SdeType = Literal["sde", "cps", "dance_sde"]
LogProbType = Literal["density", "squared_error"]


@dataclass(frozen=True)
class NoiseKey:
    """The part of a key that all random draws of one sample share; see ``omni_rl.schedulers.randomness``."""

    run_seed: int
    purpose: str
    iteration: int
    group: int
    sample: int
