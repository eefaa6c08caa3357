"""What a safetensors file holds and whether it is whole, from its size and header alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from omni_rl.errors import ModelError

HEADER = 100_000_000
"""Largest header, in bytes: the limit of the format."""

_AGAIN = "download the file again: it is incomplete or damaged"


class Stored(NamedTuple):
    """A tensor in a file: its dtype as the format names it (``F32``, ``BF16``), and its size in bytes."""

    dtype: str
    size: int


def check_header(file: Path) -> None:
    """Compare what the header claims with the size of the file.

    Raises:
        ModelError: see :func:`tensors`.
    """
    tensors(file)


def tensors(file: Path) -> dict[str, Stored]:
    """The tensors of a file by name. None of them is read.

    Raises:
        ModelError: the header is longer than the file, is not JSON, or its tensors end where the file does not.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(HEADER, size - 8):
            what = f"{file} is not a whole safetensors file: it has {size} bytes, and its header claims {length}"
            raise ModelError(what, _AGAIN)
        header = stream.read(length)
    entries = _entries(file, header)
    end = 8 + length + max((int(each["data_offsets"][1]) for each in entries.values()), default=0)
    if end != size:
        raise ModelError(f"{file} is not a whole safetensors file: it has {size} bytes of {end}", _AGAIN)
    return {name: _stored(each) for name, each in entries.items()}


def _entries(file: Path, header: bytes) -> dict[str, Any]:
    """Name -> the header's entry of each tensor, which has ``dtype`` and ``data_offsets``."""
    try:
        entries: dict[str, Any] = {n: each for n, each in json.loads(header).items() if n != "__metadata__"}
        for each in entries.values():
            _stored(each)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{file} is not a safetensors file: its header is damaged", _AGAIN) from error
    return entries


def _stored(entry: Any) -> Stored:
    first, end = entry["data_offsets"]
    return Stored(str(entry["dtype"]), int(end) - int(first))
