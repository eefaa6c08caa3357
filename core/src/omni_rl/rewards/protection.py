"""Keeps media as the engine drew them: rewards get read-only arrays, and checksums tell whether one wrote all the same.

``torch.from_numpy`` and ``setflags`` get around a read-only array.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from omni_rl.contracts.media import Media


def read_only(media: Mapping[str, Media]) -> dict[str, Media]:
    """The same media with arrays that cannot be written; shares their memory."""
    return {kind: replace(each, data=_locked(each.data)) for kind, each in media.items()}


def checksums(media: Mapping[str, Media]) -> dict[str, int]:
    """A checksum of the data of each kind."""
    return {kind: zlib.crc32(np.ascontiguousarray(each.data).data) for kind, each in media.items()}


def changed(media: Sequence[Mapping[str, Media]], sums: Sequence[Mapping[str, int]]) -> list[str]:
    """The kinds of media that differ from their checksums in any sample: ``["the data of a sample's image"]``."""
    now = [checksums(row) for row in media]
    kinds = {kind for row, known in zip(now, sums, strict=True) for kind in known if row[kind] != known[kind]}
    return [f"the data of a sample's {kind}" for kind in sorted(kinds)]


def _locked(data: np.ndarray) -> np.ndarray:
    view = data.view()
    view.flags.writeable = False
    return view
