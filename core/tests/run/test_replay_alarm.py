from __future__ import annotations

import math

import pytest
import torch

from omni_rl.contracts.verdicts import Row, Verdicts
from omni_rl.errors import RunError
from omni_rl.run.replay_alarm import FIGURE, LEAST, ReplayAlarm


def alarm(limit: float | None = 1e-3, dtype: torch.dtype = torch.float32) -> tuple[ReplayAlarm, list[str]]:
    notes: list[str] = []
    return ReplayAlarm([Row("replay", "ok", "", limit=limit)], dtype, notes.append), notes


def test_three_iterations_in_a_row_stop_the_run_and_fewer_warn():
    watched, notes = alarm()
    for iteration, gap in enumerate([0.0, 2e-3, 2e-3, 1e-3, 2e-3, math.nan], 1):
        watched.check({"iteration": iteration, FIGURE: gap}, current=True)
    assert [note.split(":")[1] for note in notes] == [f" iteration {n}" for n in (2, 3, 5, 6)]
    assert "differ by 0.002 at equal weights; rounding explains 0.001" in notes[0]
    with pytest.raises(RunError, match=r"in 3 iterations in a row, the last one 7"):
        watched.check({"iteration": 7, FIGURE: 2e-3}, current=True)


def test_samples_of_earlier_weights_and_losses_without_log_probs_are_not_judged():
    watched, notes = alarm()
    for iteration in range(5):
        watched.check({"iteration": iteration, FIGURE: 1.0}, current=False)
        watched.check({"iteration": iteration}, current=True)
    assert notes == []


@pytest.mark.parametrize(("measured", "dtype", "limit"), [(1e-9, torch.float32, LEAST), (2e-2, torch.bfloat16, 2e-2)])
def test_the_limit_is_the_gates_own(measured, dtype, limit):
    assert alarm(measured, dtype)[0].limit == limit
    (row,) = Verdicts.from_json(Verdicts([Row("replay", "ok", "", limit=measured)]).to_json())
    assert row.limit == measured


def test_without_the_gate_there_is_a_limit_too():
    assert alarm(None)[0].limit == 1e-4
    assert alarm(None, torch.bfloat16)[0].limit == 1e-1
