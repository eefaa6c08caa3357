"""Where the SDE window lies: options that algorithms share."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.requests import Window
from omni_rl.errors import ConfigError
from omni_rl.schedulers.randomness import seed_of


class WindowOptions(BaseModel):
    """How large the window is, and between which steps it lies."""

    model_config = ConfigDict(extra="forbid")

    window_size: PositiveInt | None = Field(None, description="SDE steps per sample; null: all of the range")
    window_range: tuple[Annotated[int, Field(ge=0)], PositiveInt] | None = Field(
        None, description="the window lies in [first, last); null: [0, steps - 1)"
    )

    def bounds(self, steps: int) -> tuple[int, int, int]:
        """(first, last, size).

        Raises:
            ConfigError: the window does not fit.
        """
        first, last = self.window_range or (0, max(steps - 1, 1))
        size = self.window_size or last - first
        if last > steps or not 0 < size <= last - first:
            raise ConfigError(
                f"algorithm.window_size {size} does not fit window_range [{first}, {last}) of {steps} steps",
                "lower algorithm.window_size or raise rollout.steps",
            )
        return first, last, size


class RandomWindow(WindowOptions):
    """A window at a random place, anew in every iteration."""

    window_scope: Literal["iteration", "group"] = Field("iteration", description="who shares a window's position")

    def window(self, iteration: int, group: int, steps: int, seed: int) -> Window:
        """Uniformly placed; a function of its arguments."""
        first, last, size = self.bounds(steps)
        scope = group if self.window_scope == "group" else "all"
        start = random.Random(seed_of(seed, "window", iteration, scope)).randint(first, last - size)
        return Window(start, start + size)


class RandomlyPlaced:
    """The hook of algorithms whose options are :class:`RandomWindow`."""

    config: RandomWindow

    @hookimpl
    def sde_window(self, iteration: int, group: int, steps: int, seed: int) -> Window:
        """A window of ``window_size`` steps, uniformly placed in ``window_range``."""
        return self.config.window(iteration, group, steps, seed)
