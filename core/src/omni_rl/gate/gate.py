"""Running the gate over a built run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from omni_rl.contracts.verdicts import Row
from omni_rl.gate.model_rows import model_rows
from omni_rl.gate.probe import draw
from omni_rl.gate.replay_rows import replay_rows
from omni_rl.gate.run_rows import cost_rows, geometry_row, reward_row
from omni_rl.gate.sampler_rows import sampler_rows
from omni_rl.gate.weight_rows import weight_rows
from omni_rl.plugins.context import ENGINE_HOOKS
from omni_rl.plugins.manager import diffuse_reason, overridden

if TYPE_CHECKING:
    from omni_rl.run.start import Run


def run_gate(run: Run) -> list[Row]:
    """Draw a few samples and judge them; leaves the run as it was."""
    started = time.perf_counter()
    probe = draw(run)
    seconds = time.perf_counter() - started
    return [
        *_hook_rows(run),
        *model_rows(run, probe),
        *sampler_rows(run, probe),
        *replay_rows(run, probe),
        *weight_rows(run, probe),
        reward_row(run, probe),
        geometry_row(run),
        *cost_rows(run, probe, seconds),
    ]


def _hook_rows(run: Run) -> list[Row]:
    supplied = set(getattr(run.engine, "supplies", ())) - overridden(run.manager, above="model")
    ignored = (overridden(run.manager) & ENGINE_HOOKS) - run.engine.honours - supplied
    rows = [Row("engine", "info", notice) for notice in getattr(run.engine, "notices", ())]
    if ignored:
        what = f"the engine does not call {', '.join(sorted(ignored))}, which this run overrides"
        rows.append(Row("hooks", "fail", what))
    if reason := diffuse_reason(run.manager):
        rows.append(Row("loop", "info", f"core's denoising loop is replaced: {reason}"))
    return rows
