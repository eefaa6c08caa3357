"""Iterations and validations in which no sample has a score: they are skipped and counted; a limit ends the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from omni_rl.errors import RewardError

LIMIT = 3
"""Skipped in a row, this many end the run."""


@dataclass
class Skipped:
    """A counter of one kind of event.

    Attributes:
        total: how many were skipped in the whole run.
        in_a_row: how many since the last that was not.
    """

    total: int = 0
    in_a_row: int = 0

    def scored(self) -> None:
        """One had scores."""
        self.in_a_row = 0

    def skip(self, why: str) -> str:
        """One had none; returns the sentence that tells it.

        Raises:
            RewardError: it was the last of :data:`LIMIT` in a row.
        """
        self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
        if self.in_a_row < LIMIT:
            return f"skipped: {why}"
        hint = "Mend the reward, try it with `omni-rl check CONFIG`, then continue with `omni-rl resume`."
        raise RewardError(f"{why}. It was the {LIMIT}rd time in a row.", hint)

    def state(self) -> dict[str, Any]:
        """JSON data for a checkpoint; ``{}`` if nothing was ever skipped."""
        return asdict(self) if self.total else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.total, self.in_a_row = state.get("total", 0), state.get("in_a_row", 0)
