"""The gate: checks of a run before training, on a few samples. Each check gives a row with a verdict and a number."""

from __future__ import annotations

import time

from omni_rl.contracts.context import ENGINE_HOOKS
from omni_rl.contracts.verdicts import Row
from omni_rl.gate.argument_rows import argument_rows
from omni_rl.gate.model_rows import model_rows
from omni_rl.gate.pairing import pairing_rows
from omni_rl.gate.probe import draw
from omni_rl.gate.rank_rows import agreed, one_process_row
from omni_rl.gate.replay_rows import replay_rows
from omni_rl.gate.run_rows import cost_rows, geometry_row, reward_row
from omni_rl.gate.sampler_rows import sampler_rows
from omni_rl.gate.subject import Subject
from omni_rl.gate.weight_rows import weight_rows
from omni_rl.parallel.group import world_size


def run_gate(subject: Subject) -> list[Row]:
    """Draw a few samples and check them; the run's weights and state are unchanged afterwards."""
    started = time.perf_counter()
    probe = draw(subject)
    seconds = time.perf_counter() - started
    replayed = list(replay_rows(subject, probe))
    limit = next((row.limit for row in replayed if row.limit is not None), 0.0)
    rows = [
        *_hook_rows(subject),
        *model_rows(subject, probe),
        *sampler_rows(subject, probe),
        *pairing_rows(subject, probe),
        *replayed,
        *argument_rows(subject, limit),
        *weight_rows(subject, probe),
        reward_row(subject, probe),
        geometry_row(subject.config),
        *cost_rows(subject, probe, seconds),
    ]
    return rows if world_size() == 1 else agreed([*rows, one_process_row(subject, probe)])


def _hook_rows(subject: Subject) -> list[Row]:
    engine = subject.engine
    supplied = engine.supplies - subject.overridden_above_model
    ignored = (subject.overridden & ENGINE_HOOKS) - engine.honours - supplied
    rows = [Row("engine", "info", notice) for notice in engine.notices]
    if ignored:
        what = f"the engine does not call {', '.join(sorted(ignored))}, but a plugin of this run overrides it"
        rows.append(Row("hooks", "fail", what))
    if subject.diffuse_reason:
        rows.append(Row("loop", "info", f"core's denoising loop is replaced: {subject.diffuse_reason}"))
    return rows
