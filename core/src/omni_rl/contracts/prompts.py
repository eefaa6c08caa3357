"""Prompts of a run. :mod:`omni_rl.data` reads them from files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omni_rl.schedulers.randomness import seed_of


@dataclass(frozen=True)
class PromptRow:
    """A prompt, and the other columns of its row.

    Attributes:
        metadata: the other columns as plain JSON data; rewards receive it.
        media: pipeline argument -> file or files, from the columns that ``data.media`` names.
        call: pipeline argument -> value, from the columns that ``data.call`` names.
        line: its line in the file, for messages; None where the format has no lines.

    Readers of file formats leave ``media`` and ``call`` empty; core fills them.
    """

    prompt: str
    metadata: dict[str, Any] = field(default_factory=dict)
    media: dict[str, str | list[str]] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    line: int | None = field(default=None, compare=False, repr=False)


class PromptSet:
    """The prompts, and the order in which iterations use them.

    It stores no position: the number of an iteration determines its rows.

    Args:
        rows: one or more rows.
    """

    def __init__(self, rows: list[PromptRow]) -> None:
        assert rows, "a prompt set needs a row"
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def for_iteration(self, iteration: int, n: int, seed: int, shuffle: bool) -> list[tuple[int, PromptRow]]:
        """The ``n`` rows of an iteration (from 0), with their indices in ``rows``.

        Iterations go through a permutation of the rows, then through the next permutation, and so on; one iteration may
        use the end of one and the start of the next. So at any time, the use counts of two rows differ by at most 1.
        The result depends only on the arguments, so a resumed run gets the same rows if ``n`` does not change.
        """
        assert iteration >= 0, "iterations count from 0"
        positions = range(iteration * n, (iteration + 1) * n)
        orders = {epoch: self._order(epoch, seed, shuffle) for epoch in {p // len(self) for p in positions}}
        indices = [int(orders[p // len(self)][p % len(self)]) for p in positions]
        return [(index, self.rows[index]) for index in indices]

    def _order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        if not shuffle:
            return np.arange(len(self))
        # numpy guarantees the raw stream of a bit generator across versions, but not Generator.permutation
        raw = np.random.PCG64(seed_of(seed, "data", epoch)).random_raw(len(self))
        return np.argsort(raw, kind="stable")
