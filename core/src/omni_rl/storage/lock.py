"""A lock on a run directory, so that never two processes train in it.

The lock is ``flock`` on the file ``run.lock``, which also names its owner. The operating system releases it when the
owner ends, however it ends. Two cases need the owner's process id: a child of a killed owner still holds the lock, and
file systems without ``flock``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omni_rl.errors import RunError, UserError

NAME = "run.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run directory.

    Raises:
        UserError: another process that is alive trains in the folder.
        RunError: the lock cannot be written.
    """
    path = folder / NAME
    try:
        with _guarded(folder):
            descriptor = _acquired(path)
    except OSError as error:
        raise RunError(f"cannot lock the run directory {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError), _guarded(folder):
            if _same_file(descriptor, path):
                path.unlink()
        os.close(descriptor)


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Only one process at a time acquires or releases; a moment each time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without flock
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _acquired(path: Path) -> int:
    """The descriptor of the locked file; replaces the lock of a process that does not exist any more."""
    descriptor = _opened(path)
    owner = _owner(descriptor)
    taken = not _flock(descriptor)
    if taken and _is_alive(owner):
        os.close(descriptor)
        raise _refusal(path, owner)
    if taken:  # the owner was killed and a child of it holds the lock
        os.close(descriptor)
        path.unlink()
        descriptor = _opened(path)
        _flock(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(_me()).encode() + b"\n", 0)
    return descriptor


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _flock(descriptor: int) -> bool:
    """Whether the lock is free. A file system without locks: whether the owner that the file names is dead."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return not _is_alive(_owner(descriptor))
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _start_of(os.getpid())}


def _owner(descriptor: int) -> dict[str, Any]:
    """What the file says of its owner; empty if it says nothing that can be read."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the owner may still run: a process of another host counts as alive."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return owner.get("started") in (None, _start_of(pid))  # or else the number now belongs to a later process


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the machine started; None on systems without ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _same_file(descriptor: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))


def _refusal(path: Path, owner: dict[str, Any]) -> UserError:
    here = owner.get("host") == socket.gethostname()
    where = f"process {owner['pid']}" + ("" if here else f" on {str(owner.get('host'))[:100]}")
    stop = f"wait for its end, or stop it: kill {owner['pid']}"
    return UserError(
        f"another process trains in {path.parent} at this moment: {where}",
        f"{stop}; it saves before it ends" if here else f"{stop}; if it does not exist any more: rm {path}",
    )
