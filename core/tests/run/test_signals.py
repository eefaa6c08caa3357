"""Signals while a run handles them: in its own process, and in processes that its rewards fork."""

from __future__ import annotations

import os
import signal
import time

import pytest

from omni_rl.run.signals import Stopped, StopSignals


def signalled(signals: StopSignals) -> None:
    with signals.stop_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)


def test_a_signal_ends_the_work_that_may_end():
    with StopSignals() as signals, pytest.raises(Stopped, match="SIGTERM"):
        signalled(signals)
    assert signals.arrived == signal.SIGTERM


def test_other_work_is_finished():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), signals.stop_at_once():
            raise AssertionError("not reached")


def test_in_a_forked_process_a_signal_means_what_it_always_does():
    with StopSignals() as signals, signals.stop_at_once():
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert signals.arrived is None
