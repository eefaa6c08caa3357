"""The interface of rewards.

A reward is a class with a pydantic ``Config`` and a ``score`` method, registered in the entry-point group
``omni_rl.rewards``. ``score`` may be ``async``. It returns one number per sample, or None if a sample cannot be scored;
such a sample is left out of training. Do not return a default number for a failure.
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
        media: for each sample, its media by kind. Other rewards see the same arrays, so they are read-only.
        prompts: the prompt of each sample.
        metadata: the other columns of each prompt's row, as copies for this call.
        uids: the group number of each sample; a reward of scope ``group`` always receives whole groups.
    """

    media: list[dict[str, Media]]
    prompts: list[str]
    metadata: list[Mapping[str, Any]]
    uids: list[int]

    def __len__(self) -> int:
        return len(self.prompts)


class Reward(Protocol):
    """A reward class.

    ``Config`` declares its options, which users write next to ``name`` and ``weight`` in the configuration. ``scope``
    is ``sample`` if each sample can be scored alone, and ``group`` if the whole group is needed.
    """

    Config: ClassVar[type[BaseModel]]

    @property
    def scope(self) -> Literal["sample", "group"]:
        """Whether ``score`` needs single samples or whole groups. Also allowed: a plain class attribute."""

    def __init__(self, config: Any) -> None: ...

    def score(self, batch: RewardBatch) -> Scores | Awaitable[Scores]:
        """One number per sample of ``batch``, in order; None for a sample that cannot be scored."""
