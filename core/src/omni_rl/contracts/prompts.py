"""Prompts as the rest of a run sees them; reading files is :mod:`omni_rl.data`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from omni_rl.schedulers.randomness import seed_of

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class PromptRow:
    """A prompt and the other columns of its row, which rewards receive; ``metadata`` is plain JSON data.

    ``media`` (files) and ``call`` (values) are arguments for the pipeline that ``data.media`` and ``data.call`` found
    among the columns; readers leave them empty.
    """

    prompt: str
    metadata: dict[str, Any] = field(default_factory=dict)
    media: dict[str, str | list[str]] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)


class PromptSet:
    """Rows, and the order in which iterations use them. Holds no position: an iteration's rows follow from its number.

    Args:
        rows: at least one.
    """

    def __init__(self, rows: list[PromptRow]) -> None:
        assert rows, "a prompt set needs a row"
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def for_iteration(self, iteration: int, n: int, seed: int, shuffle: bool) -> list[tuple[int, PromptRow]]:
        """The ``n`` rows of an iteration (from 0) with their indices in ``rows``.

        Iterations walk through one permutation of the set after the other, and one that reaches the end goes on in the
        next permutation: at any time the uses of two rows differ by at most one. A function of the arguments, hence
        exact for a resumed run, provided that ``n`` is the same in all iterations.
        """
        assert iteration >= 0, "iterations count from 0"
        places = range(iteration * n, (iteration + 1) * n)
        orders = {epoch: self._order(epoch, seed, shuffle) for epoch in {place // len(self) for place in places}}
        indices = [int(orders[place // len(self)][place % len(self)]) for place in places]
        return [(index, self.rows[index]) for index in indices]

    def _order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        if not shuffle:
            return np.arange(len(self))
        # numpy promises the raw stream of a bit generator for ever, but not what Generator.permutation makes of it
        raw = np.random.PCG64(seed_of(seed, "data", epoch)).random_raw(len(self))
        return np.argsort(raw, kind="stable")
