"""Errors of other processes, from the only place where they are written."""

from __future__ import annotations

import subprocess
import sys

from omni_rl.sampling.remote.stderr_tee import StderrTee

DYING = """
try:
    raise ValueError("the real reason")
except ValueError:
    import sys, traceback
    traceback.print_exc()
    sys.stderr.write("and more\\nEOFError: Ran out of input\\n")
"""

LATE = "import sys, time; time.sleep(0.3); sys.stderr.write('KeyError: late\\n')"


def started(tee: StderrTee, code: str) -> subprocess.Popen[bytes]:
    with tee.recording():
        return subprocess.Popen([sys.executable, "-c", code])


def test_the_reason_is_the_last_exception_that_is_no_consequence(capfd):
    tee = StderrTee()
    started(tee, DYING).wait()
    assert tee.reason() == "ValueError: the real reason"
    assert "and more" in capfd.readouterr().err, "what was said is passed on"


def test_a_process_is_heard_after_the_listening_too(capfd):
    tee = StderrTee()
    started(tee, LATE).wait()
    assert tee.reason() == "KeyError: late"
    sys.stderr.write("ours\n")
    assert "ours" in capfd.readouterr().err


def test_no_exception_is_no_reason():
    tee = StderrTee()
    started(tee, "print('fine')").wait()
    assert tee.reason() is None
