"""The reward contract.

A reward is a class with a pydantic ``Config`` and a ``score`` method; it is found through the entry-point group
``omni_rl.rewards``. ``score`` may be ``async``. It answers one number per sample, or None for "missing": a failed
reward is a missing sample, never a number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from omni_rl.contracts.media import Media

Scores = Sequence[float | None]


@dataclass(frozen=True)
class RewardBatch:
    """N samples to score; all lists have length N.

    Attributes:
        media: per sample, media by kind.
        prompts: the text each sample was drawn for.
        metadata: the other columns of each prompt's row.
        uids: group identity; a reward of scope ``group`` receives whole groups only.
    """

    media: list[dict[str, Media]]
    prompts: list[str]
    metadata: list[Mapping[str, Any]]
    uids: list[int]

    def __len__(self) -> int:
        return len(self.prompts)


class Reward(Protocol):
    """What a reward class provides.

    ``Config`` holds its options (its fields stand beside ``name`` and ``weight`` in the configuration); ``scope`` says
    whether a sample can be scored alone or only beside its whole group.
    """

    Config: ClassVar[type[BaseModel]]

    @property
    def scope(self) -> Literal["sample", "group"]:
        """What ``score`` has to see at once; a plain class attribute will do."""

    def __init__(self, config: Any) -> None: ...

    def score(self, batch: RewardBatch) -> Scores | Awaitable[Scores]:
        """One number per sample of ``batch``, in order; None where there is none."""
