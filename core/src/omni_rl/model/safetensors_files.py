"""Checks that a safetensors file is whole, from its size and header alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni_rl.errors import ModelError

HEADER = 100_000_000
"""Largest header, in bytes: the limit of the format."""

_AGAIN = "download the file again: it is incomplete or damaged"


def check_header(file: Path) -> None:
    """Compare what the header claims with the size of the file.

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
    end = 8 + length + _end(file, header)
    if end != size:
        raise ModelError(f"{file} is not a whole safetensors file: it has {size} bytes of {end}", _AGAIN)


def _end(file: Path, header: bytes) -> int:
    """Where the last tensor ends, counted from the end of the header."""
    try:
        entries: dict[str, Any] = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{file} is not a safetensors file: its header is damaged", _AGAIN) from error
    return max(ends, default=0)
