"""Names that schedulers, randomness and requests share; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SdeType = Literal["sde", "cps", "dance_sde"]


LogProbType = Literal["density", "squared_error"]


@dataclass(frozen=True)
class NoiseKey:
    """Names every random draw of one sample; see ``omni_rl.schedulers.randomness``."""

    run_seed: int
    purpose: str
    iteration: int
    group: int
    sample: int
