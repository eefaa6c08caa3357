"""Run a process with a limit on its own time: a busy machine does not count against it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

INTERVAL = 0.05
"""Seconds between two looks at the process."""

PATIENCE = 30
"""The process ends after this many limits of wall time in any case."""


def run_limited(command: list[str], seconds: float, **arguments: Any) -> int | None:
    """The exit status of ``command``; None if it was ended because it took more than ``seconds`` of its own time.

    Its own time is the CPU time that it used, plus the time that it slept, e.g. for a network answer. Time in which it
    waited for a CPU or a disk is the machine's. Where the system does not tell (no ``/proc``), it is the wall time.
    ``arguments`` are those of ``subprocess.Popen``.
    """
    process = subprocess.Popen(command, **arguments)
    started, slept = time.monotonic(), 0.0
    try:
        while process.poll() is None:
            before = time.monotonic()
            time.sleep(INTERVAL)
            wall = time.monotonic() - started
            state, used = _state_and_cpu(process.pid) or ("S", 0.0)
            slept += time.monotonic() - before if state in "SI" else 0.0
            if used + slept > seconds or wall > PATIENCE * seconds:
                return None
        return process.returncode
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _state_and_cpu(pid: int) -> tuple[str, float] | None:
    """The state letter of ``/proc/PID/stat`` (R runs or is ready, S sleeps, D waits for a disk), and CPU seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return fields[0], (int(fields[11]) + int(fields[12])) / ticks
