"""Only a process's own time counts against its limit."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from subprocess import Popen

import pytest

from omni_rl.plugins import own_time
from omni_rl.plugins.own_time import run_limited

BURN = "import time; t = time.process_time()\nwhile time.process_time() - t < {}: pass"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_the_exit_status_is_answered():
    assert run_limited(python("raise SystemExit(3)"), 20) == 3


@pytest.mark.parametrize("code", [BURN.format(60), "import time; time.sleep(60)"], ids=["computes", "sleeps"])
def test_its_own_time_is_limited(code):
    started = time.monotonic()
    assert run_limited(python(code), 1) is None
    assert time.monotonic() - started < 30


def test_waiting_for_a_busy_cpu_does_not_count():
    """Twelve others share one CPU with it: one second of computing takes many seconds on the wall."""
    import os

    cpu = {min(os.sched_getaffinity(0))}
    pin = f"import os; os.sched_setaffinity(0, {cpu}); "
    with ExitStack() as stack:
        for _ in range(12):
            other = stack.enter_context(Popen(python(pin + BURN.format(40))))
            stack.callback(other.kill)
        started = time.monotonic()
        assert run_limited(python(pin + BURN.format(0.5) + "\nraise SystemExit(0)"), 2) == 0
        assert time.monotonic() - started > 2


def test_without_proc_the_wall_clock_counts(monkeypatch):
    monkeypatch.setattr(own_time, "_state_and_cpu", lambda pid: None)
    assert run_limited(python(BURN.format(30)), 0.5) is None
