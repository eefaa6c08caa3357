"""Runs of the command line, each in a fork of one warm process: seconds faster than a fresh interpreter.

The warm process (this file as a script) has imported omni-rl and what a run imports later, has one thread and no
device. It forks once for each case. The child gets a session, folder, files for its output, limits and hooks of its
own, and then calls the entry point of ``omni-rl`` as the console script does.

    with Server() as server:
        server.warm(["train", "run.yaml", "--run-dir", "first"], folder)  # imports what this run imported
        ended = server.run(["train", "run.yaml", "--run-dir", "second"], folder)
        assert ended.code == 0, ended.err

A hook is a function ``module:name`` of this folder with JSON arguments, which is called in the child before the entry
point.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
Hook = tuple[str, Mapping[str, Any]]


class Ended(NamedTuple):
    """How a case ended.

    Attributes:
        code: the exit code; minus the number of the signal that ended it.
        out, err: what it printed.
        seconds: from its start to its end.
        peak_mib: the largest memory that it had resident, of which the warm process's own share is about 500 MiB.
        timed_out: it did not end in time and was killed.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak_mib: float
    timed_out: bool

    @property
    def said(self) -> str:
        """Everything that it printed."""
        return self.out + self.err


class Child:
    """A case that runs."""

    def __init__(self, server: Server, pid: int, folder: Path) -> None:
        self.pid = pid
        self.out_file, self.err_file = folder / "out", folder / "err"
        self._server, self._started = server, time.monotonic()
        self._ended: Ended | None = None
        self._descriptor = os.pidfd_open(pid)

    def send(self, number: int) -> None:
        """Send a signal to it alone, unless it has ended."""
        if not self.over(0):
            os.kill(self.pid, number)

    def over(self, seconds: float) -> bool:
        """Wait at most so long; whether it has ended."""
        return self._ended is not None or bool(select.select([self._descriptor], [], [], seconds)[0])

    def wait(self, seconds: float = 60.0) -> Ended:
        """Wait for its end. After the time limit, it is killed with the processes of its session."""
        if self._ended is None:
            timed_out = not self.over(seconds)
            took = time.monotonic() - self._started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # also what it left behind
            answer = self._server.ask({"do": "reap", "pid": self.pid})
            os.close(self._descriptor)
            out, err = (file.read_text(errors="replace") for file in (self.out_file, self.err_file))
            code = os.waitstatus_to_exitcode(answer["status"])
            self._ended = Ended(code, out, err, took, answer["peak_kib"] / 1024, timed_out)
        return self._ended


class Server:
    """The warm process, seen from the tests."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        one = dict.fromkeys(ONE_THREAD, "1")
        environment = {**os.environ, **one, "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
        environment = {name: value for name, value in environment.items() if not name.startswith("COV_CORE")}
        command = [sys.executable, __file__, str(there.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[there.fileno()], env=environment)
        there.close()
        self._pipe = here.makefile("rwb")
        here.close()  # the file keeps it open
        self._outputs = tempfile.TemporaryDirectory(prefix="omni-rl-attack-")
        self._cases = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # at the end of its input the process ends
        self._process.wait(10)
        self._outputs.cleanup()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request to the warm process; its answer."""
        self._pipe.write(json.dumps(request).encode() + b"\n")
        self._pipe.flush()
        line = self._pipe.readline()
        assert line, "the warm process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(
        self,
        arguments: Sequence[object],
        folder: Path,
        hooks: Sequence[Hook] = (),
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> Child:
        """Start ``omni-rl ARGUMENTS`` in a folder; ``limits``: as :mod:`resource` names them, such as RLIMIT_FSIZE."""
        self._cases += 1
        outputs = Path(self._outputs.name, str(self._cases))
        outputs.mkdir()
        request = {
            "do": "start",
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "outputs": str(outputs),
            "hooks": list(hooks),
            "environment": dict(environment or {}),
            "limits": dict(limits or {}),
        }
        return Child(self, self.ask(request)["pid"], outputs)

    def run(self, arguments: Sequence[object], folder: Path, seconds: float = 60.0, **options: Any) -> Ended:
        """:meth:`start` and wait."""
        return self.start(arguments, folder, **options).wait(seconds)

    def warm(self, arguments: Sequence[object], folder: Path, **options: Any) -> Ended:
        """Run once, and let the warm process import the modules that the run imported."""
        names = Path(self._outputs.name, "modules.json")
        hooks = [("forked:write_modules", {"file": str(names)})]
        ended = self.run(arguments, folder, hooks=hooks, **options)
        if names.exists():
            threads = self.ask({"do": "import", "names": json.loads(names.read_text())})["threads"]
            assert len(threads) == 1, f"a fork of the warm process may hang: it has the threads {threads}"
        return ended


def write_modules(file: str) -> None:
    """A hook: at the end, write the names of the modules that are imported and can be imported by name."""

    def write() -> None:
        found = [name for name, module in list(sys.modules.items()) if getattr(module, "__spec__", None)]
        Path(file).write_text(json.dumps([name for name in found if name not in ("__main__", "forked")]))

    atexit.register(write)


def _serve(pipe: socket.socket) -> bool:
    """Answer requests until their end; True in a child."""
    with pipe.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            if request["do"] == "start":
                sys.stdout.flush()
                pid = os.fork()
                if pid == 0:
                    _prepare(request, pipe)
                    return True
                answer: dict[str, Any] = {"pid": pid}
            elif request["do"] == "reap":
                _, status, usage = os.wait4(request["pid"], 0)
                answer = {"status": status, "peak_kib": usage.ru_maxrss}
            else:
                answer = {"threads": _import(request["names"])}
            pipe.sendall(json.dumps(answer).encode() + b"\n")
    return False


def _import(names: list[str]) -> list[str]:
    """Import modules; returns the names of this process's Python threads.

    The one that onnxruntime starts by itself waits for work that no child gives it.
    """
    for name in names:
        with contextlib.suppress(Exception):
            if importlib.util.find_spec(name) is not None:
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the children's collections do not touch, and so not copy, what exists now
    return [thread.name for thread in threading.enumerate()]


def _prepare(request: dict[str, Any], pipe: socket.socket) -> None:
    """Make this process, a new child, the process of a case."""
    os.setsid()
    os.close(pipe.detach())
    outputs = Path(request["outputs"])
    for number, file, flags in ((0, os.devnull, 0), (1, outputs / "out", 0o1101), (2, outputs / "err", 0o1101)):
        opened = os.open(file, flags, 0o644)  # 0o1101: write, create, truncate
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = True  # the lab counts what is written outside of a run's folders
    sys.argv = ["omni-rl", *request["arguments"]]
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    for hook, options in request["hooks"]:
        module, _, function = hook.partition(":")
        getattr(importlib.import_module(module), function)(**options)


def _end_as_python_does() -> None:
    """Wait for threads, call what was registered for the end, and write what is buffered."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def main() -> None:
    """Import, serve, and in each child run the command line."""
    sys.modules["forked"] = sys.modules["__main__"]
    from omni_rl.cli import main as command_line

    _import(["omni_rl.run.start", "omni_rl.cli.training"])
    assert threading.active_count() == 1
    code = 0
    if _serve(socket.socket(fileno=int(sys.argv[1]))):
        try:
            command_line()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        _end_as_python_does()
    os._exit(code)  # libraries written in C++ would wait for threads that a fork does not have


if __name__ == "__main__":
    main()
