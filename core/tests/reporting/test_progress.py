from __future__ import annotations

import math
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from omni_rl.contracts.verdicts import Row
from omni_rl.reporting.progress import Progress, clock


def row(iteration: int, **figures: float) -> dict[str, float]:
    usual = {"reward/mean": 0.634, "actor/ratio_mean": 1.00002, "actor/pg_clipfrac": 0.12, "time/iteration_s": 1.42}
    return {"iteration": iteration, **usual, **figures}


def test_a_line_says_what_matters(capsys):
    with Progress(41, plain=True) as progress:
        progress.iteration(row(12))
    line = capsys.readouterr().out
    assert line == "iter 12/41  reward 0.634  ratio 1.000020  clip 0.120  1.4 s  left 0:41\n"


def test_lines_are_aligned(capsys):
    with Progress(100, plain=True) as progress:
        for iteration, reward in ((9, 0.1), (10, 0.05), (100, 0.99)):
            progress.iteration(row(iteration, **{"reward/mean": reward, "actor/ratio_mean": 1 + reward}))
    lines = capsys.readouterr().out.splitlines()
    for word in ("/100", "reward", "ratio", "clip", "left"):
        assert len({line.index(word) for line in lines}) == 1


def test_figures_that_an_algorithm_lacks_are_left_out(capsys):
    with Progress(5, plain=True) as progress:
        progress.iteration({"iteration": 1, "reward/mean": math.nan, "time/iteration_s": 0.0})
        progress.iteration({"iteration": 2, "time/iteration_s": 0.0})
    first, second = capsys.readouterr().out.splitlines()
    assert "reward   nan" in first
    assert "ratio" not in first
    assert second == "iter 2/5  0.0 s  left 0:00"


def test_the_time_left_follows_the_last_ten_iterations(capsys):
    with Progress(1002, plain=True) as progress:
        progress.iteration(row(1, **{"time/iteration_s": 2.0}))
        progress.iteration(row(2, **{"time/iteration_s": 4.0}))
        for iteration in range(3, 13):
            progress.iteration(row(iteration, **{"time/iteration_s": 0.25}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("2.0 s  left 33:22")  # 1001 iterations of 2 s
    assert lines[1].endswith("4.0 s  left 50:00")  # 1000 of 3 s
    assert lines[-1].endswith("0.2 s  left 4:08")  # 990 of 0.25 s


def test_validation_and_notes_stand_on_lines_of_their_own(capsys):
    with Progress(41, plain=True) as progress:
        progress.validation(0, 0.5563, 0.0402)
        progress.validation(41, 0.9, math.nan)
        progress.note("wrote runs/x/checkpoints/iteration-000041")
    assert capsys.readouterr().out.splitlines() == [
        "validation after 0/41  reward 0.556 +- 0.040",
        "validation after 41/41  reward 0.900",
        "wrote runs/x/checkpoints/iteration-000041",
    ]


def test_control_characters_and_long_texts_of_others_are_shown_as_text(capsys):
    with Progress(9, plain=True) as progress:
        progress.note("ValueError: \x1b[31m\x00\ud800\n" * 1000)
    said = capsys.readouterr().out
    assert said.startswith("ValueError: \\x1b[31m\\x00\\ud800\n")
    assert len(said.splitlines()) < 40


def test_the_gate_is_a_table(capsys):
    Progress(5, plain=True).gate([Row("sigma table", "ok", "equal"), Row("rewards", "fail", "all are 0.5")])
    assert capsys.readouterr().out == "gate\n  ok    sigma table  equal\n  FAIL  rewards      all are 0.5\n"


def test_quiet_shows_nothing(capsys):
    with Progress(5, quiet=True) as progress:
        progress.gate([Row("rewards", "ok", "differ")])
        progress.iteration(row(1))
        progress.validation(1, 0.5, 0.1)
        progress.note("x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (41.4, "0:41"), (59.7, "1:00"), (725, "12:05"), (10807, "3:00:07")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


LIVE = """
from omni_rl.reporting.progress import Progress
try:
    with Progress(41) as progress:
        row = {"reward/mean": 0.5, "actor/ratio_mean": 1.00002, "actor/pg_clipfrac": 0.12, "time/iteration_s": 1.42}
        progress.iteration({"iteration": 4, **row})
        progress.note("a [bold] note")
        print("printed by a reward")
        progress.validation(4, 0.25, 0.125)
        progress.stop()
        raise KeyError("stopped")
except KeyError:
    print("over")
"""


def read_to_end(terminal: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(terminal, 4096):
            yield chunk
    except OSError:  # how a pseudo-terminal says that the other side has gone
        os.close(terminal)


@pytest.mark.ci
def test_a_terminal_gets_a_live_bar_and_lines_above_it():
    terminal, other_end = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", LIVE], stdout=other_end, stderr=other_end, env=environment)
    os.close(other_end)
    written = b"".join(read_to_end(terminal))
    assert process.wait() == 0, written.decode()
    assert b"\x1b[2K" in written  # the bar is redrawn in place
    assert written.endswith(b"over\r\n")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    assert "a [bold] note" in lines
    assert "printed by a reward" in lines
    assert "validation after 4/41  reward 0.250 +- 0.125" in lines
    bar = lines[max(i for i, line in enumerate(lines) if line.startswith("iter"))]
    assert re.fullmatch(r"iter 4/41 \S+ reward 0\.500 ratio 1\.000020 clip 0\.120 1\.4 s  left 0:53", bar)
    assert next(line for line in lines if line.startswith("iter")).startswith("iter 0/41")


@pytest.mark.ci
def test_a_pipe_gets_plain_lines():
    done = subprocess.run([sys.executable, "-c", LIVE], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[0].startswith("iter  4/41  reward 0.500")
    assert done.stdout.splitlines()[1:] == [
        "a [bold] note",
        "printed by a reward",
        "validation after 4/41  reward 0.250 +- 0.125",
        "over",
    ]
