"""Watches in every iteration that the trainer computes the log-probs that the engine stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from omni_rl.contracts.verdicts import Row
from omni_rl.errors import RunError

FIGURE = "actor/rollout_logp_absdiff_max"
"""Largest |log-prob of the trainer - log-prob of the rollout| in the first update, before which no weight moves."""

PATIENCE = 3
"""The run stops after so many iterations in a row above the limit."""

LEAST = 1e-5
"""No limit is below this value: an iteration has many more samples than the gate looks at."""

WITHOUT_GATE = {torch.float32: 1e-4, torch.bfloat16: 1e-1}
"""The limit of a run whose gate measured none."""

HINT = "omni-rl check CONFIG shows which check fails; the engine's weight sync and data.call are frequent causes"


class ReplayAlarm:
    """Compares :data:`FIGURE` of each iteration with the limit of the gate's row ``replay``."""

    def __init__(self, gate: Sequence[Row], dtype: torch.dtype, note: Callable[[str], None]) -> None:
        measured = [row.limit for row in gate if row.name == "replay" and row.limit is not None]
        self.limit = max([LEAST, *measured]) if measured else WITHOUT_GATE[dtype]
        self._note, self._in_a_row = note, 0

    def check(self, row: Mapping[str, float], current: bool) -> None:
        """Show a warning if the figure is above the limit.

        Args:
            row: the metrics of an iteration.
            current: whether all samples were drawn with the weights that the update began with. Others may differ.

        Raises:
            RunError: it was so in ``PATIENCE`` iterations in a row.
        """
        gap = row.get(FIGURE)
        if gap is None or not current:
            return
        if gap <= self.limit and not math.isnan(gap):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        what = (
            f"log-probs of engine and trainer differ by {gap:.2g} at equal weights; rounding explains {self.limit:.2g}"
        )
        if self._in_a_row >= PATIENCE:
            raise RunError(f"{what}; so in {PATIENCE} iterations in a row, the last one {row['iteration']:.0f}", HINT)
        self._note(f"warning: iteration {row['iteration']:.0f}: {what}")
