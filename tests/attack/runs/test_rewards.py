"""Rewards that raise, hang, or end the process cost their scores or nothing; the run saves and goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from lab import ITERATIONS, Lab, complete, result
from schedules import Schedule

Record = Callable[[str, object], None]

COUNT = """
import pathlib
calls = pathlib.Path({file!r})
number = len(calls.read_text()) + 1 if calls.exists() else 1
calls.write_text("." * number)
"""
"""Counts the calls of a reward: ``number``. There are validations before training, after 2 and after 4 iterations."""


def fault(lab: Lab, name: str, code: str) -> dict[str, str]:
    """The environment with which the reward runs ``code``, which may use ``number``."""
    return {"REWARD_FAULT": COUNT.format(file=str(lab.folder / f"calls-{lab.new().name}-{name}")) + code}


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_reward_that_raises_once(lab: Lab, record_property: Record) -> None:
    """The call is made again, and nothing is lost."""
    schedule = Schedule("a reward that raises once")
    for number in range(1, 8):
        run = lab.new()
        environment = fault(lab, str(number), f"if number == {number}: raise OSError('the attack')")
        ended = lab.call(lab.train(run), environment=environment)
        schedule.add(f"call {number}", ended.said[-500:] if ended.code else lab.difference(run))
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["raise ValueError('the attack')", "raise SystemExit(0)", "1 / 0"])
def test_a_reward_that_raises_always(lab: Lab, record_property: Record, kind: str) -> None:
    """Iterations without scores are skipped; the third in a row ends the run, which goes on with a mended reward."""
    schedule = Schedule("a reward that raises always")
    for number in (1, 2, 3):
        run = lab.new()
        environment = fault(lab, str(number), f"if number >= {number}: {kind}")
        ended = lab.call(lab.train(run), environment=environment)
        wrong = f"exit code {ended.code}: {ended.said[-500:]}" if ended.code != 2 else None
        if wrong is None and "Traceback" in ended.said:
            wrong = "a traceback"
        reached, kept = complete(run) if run.exists() else (0, 0)
        wrong = wrong or (f"{reached - kept} iterations are lost" if reached != kept else None)
        after = lab.go_on(run, ended)
        wrong = wrong or (f"does not go on: {after.said[-500:]}" if after.code else None)
        rows = [row["iteration"] for row in result(run).rows] if wrong is None else []
        if wrong is None and rows != list(range(1, ITERATIONS + 1)):
            wrong = f"the metrics have the iterations {rows}"
        schedule.add(f"{kind} from call {number}", wrong, reached - kept)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("own_process", [False, True])
def test_a_reward_that_hangs(lab: Lab, record_property: Record, own_process: bool) -> None:
    """Its time limit ends the call; the iteration is skipped and the run is complete, with contiguous metrics."""
    schedule = Schedule("a reward that hangs")
    for number in (1, 2, 4):
        run = lab.new()
        environment = fault(lab, str(number), f"import time\nif number == {number}: time.sleep(1000)")
        limit = ["reward.0.timeout_s=2", f"reward.0.process={str(own_process).lower()}"]
        ended = lab.call(lab.train(run, *limit), environment=environment)
        wrong = f"exit code {ended.code}: {ended.said[-500:]}" if ended.code else None
        rows = [row["iteration"] for row in result(run).rows] if wrong is None else []
        if wrong is None and rows != list(range(1, ITERATIONS + 1)):
            wrong = f"the metrics have the iterations {rows}"
        schedule.add(f"call {number}", wrong or (None if "did not answer" in ended.said else "no word of it"))
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_signal_while_a_reward_hangs(lab: Lab, record_property: Record) -> None:
    """The run saves and leaves at once."""
    schedule = Schedule("a signal while a reward hangs")
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        for number in (1, 3, 4):
            run = lab.new()
            code = f"import time, os\nif number == {number}:\n    os.kill(os.getpid(), {getattr(signal, name).value})\n"
            ended = lab.call(lab.train(run), environment=fault(lab, name, f"{code}    time.sleep(1000)"))
            reached, kept = complete(run)
            wrong = f"{reached - kept} iterations are lost" if reached != kept else None
            if ended.timed_out or ended.code != 128 + getattr(signal, name):
                wrong = f"exit code {ended.code}: {ended.said[-300:]}"
            schedule.add(f"{name} in call {number}", wrong or lab.judged(run, ended), reached - kept)
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_reward_that_ends_the_process(lab: Lab, record_property: Record) -> None:
    """As kill -9. In a process of its own it costs nothing: the process is started and the call made again."""
    schedule = Schedule("a reward that ends the process")
    for number in (1, 3, 5):
        run = lab.new()
        environment = fault(lab, str(number), f"import os\nif number == {number}: os._exit(0)")
        ended = lab.call(lab.train(run), environment=environment)
        reached, kept = complete(run)
        wrong = f"{reached - kept} iterations are lost" if reached - kept > 1 else lab.judged(run, ended)
        schedule.add(f"call {number}", wrong, reached - kept)
        run = lab.new()
        environment = fault(lab, f"own-{number}", f"import os\nif number == {number}: os._exit(0)")
        ended = lab.call(lab.train(run, "reward.0.process=true"), environment=environment)
        schedule.add(f"call {number}, own process", ended.said[-500:] if ended.code else lab.difference(run))
    schedule.finish(record_property)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["ValueError", "AssertionError", "MemoryError", "KeyError", "OSError", "SystemExit"])
def test_an_error_in_a_step_of_the_run(lab: Lab, record_property: Record, kind: str) -> None:
    """Before an update, everything complete is saved; in it, the newest checkpoint counts."""
    schedule = Schedule("errors in steps of the run")
    for step, number in (("rollout", 3), ("advantages", 2), ("validation", 2), ("update", 3), ("checkpoint", 3)):
        run = lab.new()
        harm = {"step": step, "number": number, "do": kind}
        ended = lab.call(lab.train(run), ("runs.faults:at_step", harm))
        reached, kept = complete(run)
        wrong = f"exit code {ended.code}: {ended.said[-300:]}" if ended.code not in (1, 2) else None
        wrong = wrong or ("a traceback" if "Traceback" in ended.said else None)
        wrong = wrong or (f"{reached - kept} iterations are lost" if reached != kept else None)
        schedule.add(f"{kind} at {step}", wrong or lab.judged(run, ended), reached - kept)
    schedule.finish(record_property)
