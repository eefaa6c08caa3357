"""A hook that writes down what no run may do: read pickles, execute code of a folder, write outside of its folders."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def record(log: str, data: list[str], writable: list[str]) -> None:
    """From now on, write a line to ``log`` for everything that is forbidden.

    Args:
        data: folders (of models and runs) with nothing but data: no code of them is executed, no pickle read.
        writable: only files below these folders may be opened for writing.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    within = tuple(os.path.realpath(folder) + os.sep for folder in data)
    allowed = tuple(os.path.realpath(folder) + os.sep for folder in (*writable, "/dev", "/proc/self"))

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        what = _forbidden(event, arguments, within, allowed)
        if what is not None:
            os.write(descriptor, json.dumps(what).encode() + b"\n")

    sys.addaudithook(heard)
    _watch_torch(descriptor)


def _watch_torch(descriptor: int) -> None:
    import torch

    original = torch.load

    def load(*arguments: Any, **named: Any) -> Any:
        os.write(descriptor, json.dumps(f"torch.load {arguments[:1]}").encode() + b"\n")
        return original(*arguments, **named)

    torch.load = load


def _forbidden(event: str, arguments: tuple[Any, ...], within: tuple[str, ...], allowed: tuple[str, ...]) -> str | None:
    if event == "pickle.find_class":
        return f"unpickles {arguments[0]}.{arguments[1]}"
    if event == "exec":
        name = getattr(arguments[0], "co_filename", "")
        return f"executes {name}" if os.path.realpath(name).startswith(within) else None
    if event == "import":
        return f"imports {arguments[1]}" if arguments[1] and os.path.realpath(arguments[1]).startswith(within) else None
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        return _opened(os.path.realpath(os.fsdecode(arguments[0])), arguments[1], arguments[2], within, allowed)
    return None


def _opened(real: str, mode: Any, flags: Any, within: tuple[str, ...], allowed: tuple[str, ...]) -> str | None:
    if real.startswith(within) and real.lower().endswith(PICKLES):
        return f"reads {real}"
    writes = bool(set(mode or "") & set("wax+")) or bool(isinstance(flags, int) and flags & WRITES)
    return f"writes {real}" if writes and not real.startswith(allowed) else None


def told(log: Path) -> list[str]:
    """What was written down."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
