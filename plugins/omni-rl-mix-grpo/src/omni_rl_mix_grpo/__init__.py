"""MixGRPO (arXiv 2507.21802): FlowGRPO's objective in a window that slides from the first steps to the last.

Early steps determine the layout and have larger gradients, so they are trained first:

    position(i) = (i div iterations_per_position) * (window_size - overlap)

At the end of ``window_range`` the window goes back to the start (``wrap``) or stays there (``stop``). All samples of an
iteration share the window, as in the paper. Steps outside the window are ODE steps. With ``order: random``, the
position is drawn again in every iteration.

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
    """Options in the section ``algorithm`` with ``name: mix_grpo``."""

    window_size: PositiveInt = Field(2, description="SDE steps per sample")
    order: Literal["progressive", "random"] = Field("progressive", description="movement of the window")
    iterations_per_position: PositiveInt = Field(25, description="progressive: iterations per position of the window")
    overlap: Annotated[int, Field(ge=0)] = Field(0, description="progressive: steps that consecutive positions share")
    at_end: Literal["wrap", "stop"] = Field(
        "wrap", description="progressive: after the last position, start again ('wrap') or stay there ('stop')"
    )


class MixGRPO(PolicyGradient):
    """The algorithm hooks of MixGRPO."""

    Config = MixGRPOConfig
    config: MixGRPOConfig

    @hookimpl
    def sde_window(self, iteration: int, steps: int, seed: int) -> Window:
        """The iteration's window; depends only on the arguments.

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
        """All start positions of the window in order; the last window ends at the end of the range."""
        if self.config.overlap >= size:
            what = f"algorithm.overlap {self.config.overlap} keeps a window of {size} steps from moving"
            raise ConfigError(what, "lower algorithm.overlap below algorithm.window_size")
        starts = list(range(first, last - size, size - self.config.overlap))
        return [*starts, last - size]

    def _index(self, iteration: int, first: int, last: int, size: int) -> int:
        moves, count = iteration // self.config.iterations_per_position, len(self._positions(first, last, size))
        return moves % count if self.config.at_end == "wrap" else min(moves, count - 1)
