"""The interface of recognisers: they read images and return text with a confidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""


@dataclass(frozen=True)
class Reading:
    """The recogniser's text, and its confidence in [0, 1] (0 when it read nothing)."""

    text: str
    confidence: float


class Reader(Protocol):
    """A recogniser."""

    def read(self, images: Sequence[Pixels]) -> list[Reading]:
        """One reading per image, in order. A reading does not depend on the other images."""


def joined(parts: Iterable[Reading]) -> Reading:
    """Several pieces of text as one: joined by spaces, the confidence is their mean."""
    parts = [part for part in parts if part.text.strip()]
    if not parts:
        return Reading("", 0.0)
    return Reading(" ".join(part.text.strip() for part in parts), sum(part.confidence for part in parts) / len(parts))
