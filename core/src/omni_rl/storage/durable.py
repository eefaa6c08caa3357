"""Writes files that survive a crash: atomically and synced to disk. Explains a full disk to the user."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal
from safetensors import SafetensorError

from omni_rl.errors import RunError


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of ``path`` by ``data``. After a crash at any moment, the file has either the old or the new
    content, never a mixture.

    Raises RunError when the disk is full or the file cannot be written; the old file then stays as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, len(data)):
        try:
            temporary.write_bytes(data)
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, needed: int, then: str = "continue with: omni-rl resume RUN_DIRECTORY") -> Iterator[None]:
    """Turn a failure to write ``needed`` bytes to ``path`` into a RunError; ``then`` is the hint for a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunError(_explain(path, needed, error, then)) from error


def _explain(path: Path, needed: int, error: Exception, then: str) -> str:
    number = _errno(error)
    reason = str(error) if number is None else os.strerror(number)
    text = f"cannot write {path}: {reason}; it needs {decimal(needed)} ({needed} bytes)"
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return text
    free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.exists())).free
    return f"{text} and {decimal(free)} are free\n  free some disk space, then {then}"


def _errno(error: Exception) -> int | None:
    """The error number of the operating system; errors of safetensors have it only in their text."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"os error (\d+)", str(error))
    return int(match[1]) if match else None
