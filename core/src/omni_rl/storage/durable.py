"""Writes files that survive a crash: atomically and synced to disk. Explains a full disk to the user."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.filesize import decimal
from safetensors import SafetensorError

from omni_rl.errors import RunError

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}-")


def temporary(path: Path) -> Path:
    """A new hidden name beside ``path``. Nobody can predict it, so no link can wait there."""
    return path.with_name(f".tmp-{secrets.token_hex(8)}-{path.name}")


def is_temporary(path: Path) -> bool:
    """Whether a killed process left ``path``: its name is one of :func:`temporary`."""
    return _TEMPORARY.match(path.name) is not None


def write_atomic(path: Path, data: bytes, then: str = "") -> None:
    """Replace the content of ``path`` by ``data``. After a crash at any moment, the file has either the old or the new
    content, never a mixture. If ``path`` is a link, the link is replaced; the file that it points to is not written.

    Raises RunError when the disk is full or the file cannot be written; the old file then stays as it was.
    """
    with replacing(path, len(data), then) as new, new.open("xb") as file:
        file.write(data)


@contextmanager
def replacing(path: Path, needed: int, then: str = "") -> Iterator[Path]:
    """The name of a new file, which replaces ``path`` when the context ends without an error; raises RunError as
    :func:`write_atomic`.
    """
    new = temporary(path)
    with writing(path, needed, then):
        try:
            yield new
            sync(new)
            os.replace(new, path)
        except BaseException:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        sync(path.parent)


def append(path: Path, line: bytes) -> None:
    """Append to a file, which is created if it does not exist; the line is on the disk when this returns.

    If the line cannot be written completely, what was written of it is removed. Raises RunError; also if ``path`` is a
    link, because the file that it points to may not belong to the run.
    """
    with writing(path, len(line)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _append(descriptor, line)
        finally:
            os.close(descriptor)


def _append(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, size)
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, needed: int, then: str = "") -> Iterator[None]:
    """Turn a failure to write ``needed`` bytes to ``path`` into a RunError.

    ``then``: what to do when the disk has room again; empty if the caller says it.
    """
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
    hint = f"free some disk space, then {then}" if then else "free some disk space first"
    return f"{text} and {decimal(free)} are free\n  {hint}"


def _errno(error: Exception) -> int | None:
    """The error number of the operating system; errors of safetensors have it only in their text."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"os error (\d+)", str(error))
    return int(match[1]) if match else None
