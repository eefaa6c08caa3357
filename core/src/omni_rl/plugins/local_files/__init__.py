"""The parent of all modules that come from a user's Python file.

A pool of processes finds a function by the name of its module. So this package can import such a module in every
process that the run's process starts: an environment variable tells it the file of each module.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

VARIABLE = "OMNI_RL_LOCAL_FILES"
"""The environment variable: JSON, the module's name -> [its file, the hex digest of its content]."""


class Text(importlib.abc.ExecutionLoader):
    """Imports a module from text, so that a process without access to a run's files can import them."""

    def __init__(self, content: str, path: str) -> None:
        self.content, self.path = content, path

    def get_filename(self, fullname: str) -> str:
        """The user's file, for tracebacks."""
        return self.path

    def get_source(self, fullname: str) -> str:
        """The text."""
        return self.content


def module_name(content: str, path: str) -> str:
    """The name of the module of a file with this content."""
    stem = "".join(letter if letter.isalnum() else "_" for letter in Path(path).stem)
    return f"{__name__}.{stem}_{digest(path, content)[:12]}"


def digest(path: str, content: str) -> str:
    """A hash of a file's path and content."""
    return hashlib.sha256(f"{path}\0{content}".encode(errors="surrogatepass")).hexdigest()


def announce(name: str, content: str, path: str) -> None:
    """Let processes that this process starts import the module."""
    os.environ[VARIABLE] = json.dumps(_known() | {name: [path, digest(path, content)]})


def _known() -> dict[str, list[str]]:
    known: dict[str, list[str]] = json.loads(os.environ.get(VARIABLE, "{}"))
    return known


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that another process has announced."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{__name__}.") or fullname not in (known := _known()):
            return None
        file, expected = known[fullname]
        content = importlib.util.decode_source(Path(file).read_bytes())
        if digest(file, content) != expected:
            raise ImportError(f"{file} was changed after the run had started", name=fullname, path=file)
        return importlib.util.spec_from_loader(fullname, Text(content, file))


sys.meta_path.append(_Finder())
