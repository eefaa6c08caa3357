"""What a case opens and runs: an audit hook in its process, and a watch of folders that it must not reach.

The audit hook sees what Python opens and executes; the watch also sees what compiled code opens, such as the reader of
safetensors.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any, Self

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy")
_IN_OPEN, _IN_ACCESS = 0x20, 0x1


def record(log: str, models: list[str], around: str) -> None:
    """A hook of the child: from now on, write a line for everything that no case may do.

    Args:
        log: the file for the lines.
        models: folders whose code must not run, and whose pickles must not be read.
        around: nothing below this folder may be opened, except what is in the folder of the case itself.
    """
    folder = os.getcwd()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    roots = [os.path.realpath(each) for each in models]

    def inside(path: object) -> bool:
        text = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes)) and path else ""
        return any(text.startswith(root + os.sep) for root in roots)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        what = _forbidden(event, arguments, inside, around, folder)
        if what is not None:
            os.write(descriptor, json.dumps(what).encode() + b"\n")

    sys.addaudithook(hook)


def _forbidden(event: str, arguments: tuple[Any, ...], inside: Any, around: str, folder: str) -> str | None:
    if event == "pickle.find_class":
        return f"unpickles {arguments[0]}.{arguments[1]}"
    if event == "exec" and inside(getattr(arguments[0], "co_filename", "")):
        return f"executes {arguments[0].co_filename}"
    if event == "import" and inside(arguments[1]):
        return f"imports {arguments[1]}"
    if event != "open" or not isinstance(arguments[0], (str, bytes)):
        return None
    name = os.fsdecode(arguments[0])
    if inside(name) and name.lower().endswith(_PICKLES):
        return f"opens {name}"
    real = os.path.abspath(name)  # links are followed on purpose: a hub's cache consists of them
    return f"opens {real}" if real.startswith(around + os.sep) and not real.startswith(folder + os.sep) else None


def told(log: Path) -> list[str]:
    """The lines of the hook."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class Watched:
    """Notices every opening of a file in some folders, also by compiled code (inotify)."""

    def __init__(self, *folders: Path) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._library.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            added = self._library.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_OPEN | _IN_ACCESS)
            assert added >= 0, os.strerror(ctypes.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def touched(self) -> bool:
        """Whether any of them was opened since the last question."""
        try:
            return bool(os.read(self._descriptor, 65536))
        except BlockingIOError:
            return False
