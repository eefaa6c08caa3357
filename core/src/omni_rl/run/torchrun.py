"""The launcher ``torchrun``: several processes on this machine, and the same on other machines.

It sets the variables that torchrun sets, and starts the processes itself: it passes signals on and waits for the end of
saving, which may take longer than torchrun would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from omni_rl.contracts.spec import RunSpec
from omni_rl.errors import ConfigError, RunError, UserError
from omni_rl.parallel.group import STORE
from omni_rl.run.error_data import from_json
from omni_rl.run.launchers import pack, unpack
from omni_rl.run.one_rank import INTERRUPTED
from omni_rl.run.signals import STOPPING

_EVERY_S = 0.1

GRACE_S = 30.0
"""Seconds in which the other processes may end by themselves after one of them has failed."""

Process = subprocess.Popen[bytes]


class Options(BaseModel):
    """Options of the launcher."""

    model_config = ConfigDict(extra="forbid")

    processes: PositiveInt | None = Field(
        default=None, description="processes on this machine; default: one for each GPU"
    )
    nodes: PositiveInt = Field(default=1, description="number of machines; each runs the same command")
    node: int = Field(default=0, ge=0, description="the number of this machine, from 0")
    address: str | None = Field(
        default=None, pattern=r"^[^:\s]+:\d+$", description="host:port of machine 0; needed for several machines"
    )


class Torchrun:
    """Starts a run in several ranks; see :class:`omni_rl.contracts.interfaces.Launcher`.

    Raises:
        ConfigError: the options do not fit together.
    """

    Config = Options

    def __init__(self, config: Options) -> None:
        self._config = config
        self._processes = config.processes or torch.cuda.device_count() or 1
        if config.node >= config.nodes:
            raise ConfigError(f"launcher.node: {config.node}", f"machines have the numbers 0 to {config.nodes - 1}")
        if config.nodes > 1 and config.address is None:
            raise ConfigError("launcher.nodes: launcher.address is missing", "set launcher.address=HOST:PORT")
        if config.address is not None and not 0 < int(config.address.rpartition(":")[2]) < 2**16:
            raise ConfigError(f"launcher.address: {config.address}", "a port is a number from 1 to 65535")

    def __call__(self, spec: RunSpec, entry: str, arguments: Mapping[str, Any]) -> Any:
        """The answer of this machine's first process, as JSON data.

        Raises:
            UserError, RunError: the error of the run; or a process ended without an answer.
            KeyboardInterrupt: Ctrl-C before training.
        """
        with tempfile.TemporaryDirectory(prefix="omni-rl-ranks-") as folder:
            files = Path(folder)
            (files / "call.json").write_text(pack(spec, entry, arguments))
            processes = [self._start(files, number) for number in range(self._processes)]
            try:
                with _passing_signals_to(processes):
                    failed = _wait(processes)
            finally:
                _kill(processes)
            if failed is not None and processes[failed].returncode == INTERRUPTED and _told(files, 0) is None:
                raise KeyboardInterrupt
            if failed is not None:
                raise _failure(files, failed, processes[failed].returncode, self._first_rank)
            return unpack(_answer(files, 0).read_text())

    @property
    def _first_rank(self) -> int:
        return self._config.node * self._processes

    def _start(self, files: Path, number: int) -> Process:
        """Start one process. Rank 0 shows its output, the others write theirs to files."""
        environment = {**os.environ, **self._environment(files, number)}
        command = [sys.executable, "-m", "omni_rl.run.one_rank", str(files / "call.json"), str(_answer(files, number))]
        if self._first_rank + number == 0:
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        environment["TQDM_DISABLE"] = "1"
        with _errors(files, number).open("wb") as errors:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C reaches it through this process only
            )

    def _environment(self, files: Path, number: int) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // self._processes)
        common = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "RANK": str(self._first_rank + number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(self._config.nodes * self._processes),
            "LOCAL_WORLD_SIZE": str(self._processes),
        }
        if self._config.address is None:
            return common | {STORE: str(files / "store")}
        host, _, port = self._config.address.rpartition(":")
        return common | {"MASTER_ADDR": host, "MASTER_PORT": port}


def _wait(processes: Sequence[Process]) -> int | None:
    """Wait for the end of all processes; the number of the first that failed, or None."""
    failed: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        failed = _first_failed(processes) if failed is None else failed
        if failed is not None and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_S
        time.sleep(_EVERY_S)
    return _first_failed(processes) if failed is None else failed


def _first_failed(processes: Sequence[Process]) -> int | None:
    return next((number for number, process in enumerate(processes) if process.poll()), None)


def _kill(processes: Sequence[Process]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _passing_signals_to(processes: Sequence[Process]) -> Iterator[None]:
    """Pass the signals that stop a run to all processes."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)  # does nothing if it has ended

    earlier = {getattr(signal, name): signal.signal(getattr(signal, name), pass_on) for name in STOPPING}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _failure(files: Path, failed: int, code: int, first_rank: int) -> UserError | RunError:
    """The error for the user. Rank 0 knows what is saved, so that it counts if it knows the cause, too."""
    at_0, there = _told(files, 0), _told(files, failed)
    if at_0 is not None and (failed == 0 or at_0["what"].startswith("rank ")):
        return from_json(at_0)
    if there is not None:
        return from_json(there, f"rank {first_rank + failed}: ")
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = _errors(files, failed).read_text(errors="replace").split("\n") if _errors(files, failed).exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
    error = RunError(f"rank {first_rank + failed} {ended}: {last}")
    for note in [] if at_0 is None else at_0["notes"]:
        error.add_note(note)
    return error


def _told(files: Path, number: int) -> dict[str, Any] | None:
    """The error in the answer of a process; None if it gave no answer or no error."""
    with contextlib.suppress(OSError, ValueError):
        error: dict[str, Any] | None = json.loads(_answer(files, number).read_text()).get("error")
        return error
    return None


def _answer(files: Path, number: int) -> Path:
    return files / f"answer-{number}.json"


def _errors(files: Path, number: int) -> Path:
    return files / f"errors-{number}.txt"
