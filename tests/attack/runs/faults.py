"""Hooks of a case's process that harm it: at a file operation, at a step of the run, or from its beginning.

A file operation is what changes the run's folder, seen by an audit hook: opening for writing, renaming, deleting,
making folders; besides, writing to and syncing a descriptor, which have no audit events.
"""

from __future__ import annotations

import builtins
import errno
import functools
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}


class Operations:
    """Counts the operations in a folder, and acts before the one with a number."""

    def __init__(self, folder: str, act: Callable[[str], None]) -> None:
        self._inside, self._act, self._busy = os.path.abspath(folder) + os.sep, act, False
        sys.addaudithook(self._heard)
        for name in ("write", "fsync"):
            self._wrap(name)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            mode, flags = arguments[1], arguments[2]
            writes = bool(set(mode or "") & set("wax+")) or bool(isinstance(flags, int) and flags & WRITES)
            if writes:
                self._operation(event, arguments[0])
        elif event in CHANGES:
            self._operation(event, arguments[0])

    def _operation(self, event: str, path: Any) -> None:
        if not self._busy and isinstance(path, (str, bytes, os.PathLike)):
            where = os.path.abspath(os.fsdecode(path))
            if (where + os.sep).startswith(self._inside):
                self._act(f"{event} {where.removeprefix(self._inside)}")

    def _wrap(self, name: str) -> None:
        original = getattr(os, name)

        @functools.wraps(original)
        def wrapped(descriptor: int, *rest: Any) -> Any:
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                path = ""
            if (path + os.sep).startswith(self._inside):
                self._act(f"{name} {path.removeprefix(self._inside)}")
            return original(descriptor, *rest)

        setattr(os, name, wrapped)


def count_operations(folder: str, file: str) -> None:
    """Write a line for each operation."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    Operations(folder, lambda what: (_write(descriptor, f"{what}\n".encode()), None)[1])


_write = os.write


def at_operation(folder: str, number: int, do: str, again: bool = False) -> None:
    """Before the operation with this number (from 1): ``SIGKILL`` or another signal, or fail with ``ENOSPC`` or another
    error; ``again``: also at all later ones.
    """
    seen = [0]

    def act(_: str) -> None:
        seen[0] += 1
        if seen[0] == number or (again and seen[0] > number):
            _do(do)

    Operations(folder, act)


def _do(what: str) -> None:
    if what.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, what))
        time.sleep(0)  # handlers run here
    else:
        number = getattr(errno, what)
        raise OSError(number, os.strerror(number))


STEPS = {
    "data": "omni_rl.run.start:check_data_of",
    "gate": "omni_rl.run.start:run_gate",
    "beginning": "omni_rl.run.start:_write_beginning",
    "validation": "omni_rl.run.loop:validate",
    "rollout": "omni_rl.run.experience:rollout_requests",
    "reward": "omni_rl.rewards.runner:RewardRunner.submit",
    "advantages": "omni_rl.run.experience:assemble",
    "update": "omni_rl.training.backend:TorchBackend.update",
    "sync": "omni_rl.run.loop:sync_weights",
    "pictures": "omni_rl.reporting.artifacts:write_png",
    "metrics": "omni_rl.storage.run_folder:append",
    "checkpoint": "omni_rl.run.loop:save",
    "rename": "omni_rl.storage.checkpoint:_publish",
    "report": "omni_rl.reporting.artifacts:write_report",
}
"""The steps of a run, and the functions that begin them."""


def at_step(step: str, number: int, do: str, after: bool = False) -> None:
    """At the beginning (or after the end) of the n-th occurrence of a step: as :func:`at_operation`, or raise an error
    by the name of a built-in exception.
    """
    module, _, path = STEPS[step].partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    original, seen = getattr(owner, name), [0]

    @functools.wraps(original)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        seen[0] += 1
        now = seen[0] == number
        if now and not after:
            _disturb(do)
        result = original(*arguments, **named)
        if now and after:
            _disturb(do)
        return result

    setattr(owner, name, wrapped)


def _disturb(do: str) -> None:
    if do.startswith("SIG") or do in vars(errno):
        _do(do)
    else:
        raise getattr(builtins, do)("the attack")


def journal(file: str) -> None:
    """Write a line with the time whenever an iteration or a checkpoint is complete."""
    from omni_rl.reporting.recorder import Recorder

    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(name: str) -> None:
        original = getattr(Recorder, name)

        @functools.wraps(original)
        def wrapped(self: Any, state: Any, *rest: Any) -> Any:
            result = original(self, state, *rest)
            _write(descriptor, json.dumps([time.monotonic(), name, state.iteration]).encode() + b"\n")
            return result

        setattr(Recorder, name, wrapped)

    for name in ("start", "iteration", "checkpoint"):
        tell(name)


def output(kind: str) -> None:
    """Standard output and error that take nothing: ``closed``; ``full``; ``broken``, a pipe without reader."""
    for number in (1, 2):
        if kind == "closed":
            os.close(number)
        elif kind == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)
        else:
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, number)


def terminal(name: str) -> None:
    """Make a terminal the controlling one of the process; its closing then sends SIGHUP."""
    descriptor = os.open(name, os.O_RDWR)  # the first one that a session leader opens controls it
    for number in range(3):
        os.dup2(descriptor, number)
