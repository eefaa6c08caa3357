"""Size and position of the SDE window: options that algorithms share."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.requests import Window
from omni_rl.errors import ConfigError
from omni_rl.schedulers.randomness import seed_of


class WindowOptions(BaseModel):
    """Size of the SDE window, and the range of steps in which it lies."""

    model_config = ConfigDict(extra="forbid")

    window_size: PositiveInt | None = Field(None, description="SDE steps per sample; null: all steps of window_range")
    window_range: tuple[Annotated[int, Field(ge=0)], PositiveInt] | None = Field(
        None, description="[first, last): denoising steps that the window may use; null: [0, steps - 1)"
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
    """A window at a random position, drawn again in every iteration."""

    window_scope: Literal["iteration", "group"] = Field(
        "iteration", description="'iteration': all samples share the window's position; 'group': those of a group do"
    )

    def window(self, iteration: int, group: int, steps: int, seed: int) -> Window:
        """A window at a uniformly drawn position, which depends only on the arguments."""
        first, last, size = self.bounds(steps)
        scope = group if self.window_scope == "group" else "all"
        start = random.Random(seed_of(seed, "window", iteration, scope)).randint(first, last - size)
        return Window(start, start + size)


class RandomlyPlaced:
    """Implements ``sde_window`` for algorithms whose options include :class:`RandomWindow`."""

    config: RandomWindow

    @hookimpl
    def sde_window(self, iteration: int, group: int, steps: int, seed: int) -> Window:
        """A window of ``window_size`` steps at a uniformly drawn position in ``window_range``."""
        return self.config.window(iteration, group, steps, seed)
