"""MixGRPO (arXiv 2507.21802): FlowGRPO's objective in a window that slides from the first steps to the last.

Early steps settle the layout and have the larger gradients, so training goes through them first:

    position(i) = (i div iterations_per_position) * (window_size - overlap)

and at the end of ``window_range`` either wraps around to its start or stops there. All samples of an iteration share
the window, as the paper's do. Steps outside of it are plain ODE steps. ``order: random`` draws the position anew in
every iteration instead.

Assumptions: those of FlowGRPO (:mod:`omni_rl.objectives.policy_gradient`).
"""

from __future__ import annotations

import random
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from omni_rl import hookimpl
from omni_rl.contracts.requests import Window
from omni_rl.errors import ConfigError
from omni_rl.objectives.policy_gradient import ClippedOptions, PolicyGradient
from omni_rl.objectives.windows import WindowOptions
from omni_rl.schedulers.randomness import seed_of


class MixGRPOConfig(ClippedOptions, WindowOptions):
    """Options beside ``algorithm.name: mix_grpo``."""

    window_size: PositiveInt = Field(2, description="SDE steps per sample")
    order: Literal["progressive", "random"] = Field("progressive", description="how the window moves")
    iterations_per_position: PositiveInt = Field(25, description="progressive: iterations before the window moves on")
    overlap: Annotated[int, Field(ge=0)] = Field(0, description="progressive: steps that two positions share")
    at_end: Literal["wrap", "stop"] = Field(
        "wrap", description="progressive: start again, or stay at the last position"
    )


class MixGRPO(PolicyGradient):
    """The algorithm hooks of MixGRPO."""

    Config = MixGRPOConfig
    config: MixGRPOConfig

    @hookimpl
    def sde_window(self, iteration: int, steps: int, seed: int) -> Window:
        """The iteration's window, a function of its arguments.

        Raises:
            ConfigError: the window does not fit, or would not move.
        """
        first, last, size = self.config.bounds(steps)
        if self.config.order == "random":
            start = random.Random(seed_of(seed, "window", iteration)).randint(first, last - size)
        else:
            start = self._positions(first, last, size)[self._index(iteration, first, last, size)]
        return Window(start, start + size)

    def _positions(self, first: int, last: int, size: int) -> list[int]:
        """Where the window stands, one after the other; the last position ends with the range."""
        if self.config.overlap >= size:
            what = f"algorithm.overlap {self.config.overlap} keeps a window of {size} steps from moving"
            raise ConfigError(what, "lower algorithm.overlap below algorithm.window_size")
        starts = list(range(first, last - size, size - self.config.overlap))
        return [*starts, last - size]

    def _index(self, iteration: int, first: int, last: int, size: int) -> int:
        moves, count = iteration // self.config.iterations_per_position, len(self._positions(first, last, size))
        return moves % count if self.config.at_end == "wrap" else min(moves, count - 1)
