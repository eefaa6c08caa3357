"""One trainer, one engine after the other, for models that take minutes to load: iterations side by side in one run.

    python benchmarks/one_trainer.py CONFIG [--modes stepwise requests embedded] [--iterations 2] [--json FILE]
        [OVERRIDE...] [--engine-override OVERRIDE]...

Every engine draws, scores, updates and synchronises complete iterations; the first one also pays for warming up the
trainer. The log-prob gap is the gate's: stored by the engine against replayed by the trainer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engines import MODES, versions

from omni_rl.config.resolve import resolve
from omni_rl.contracts import State
from omni_rl.gate.probe import draw
from omni_rl.gate.replay_rows import replay_rows
from omni_rl.gate.weight_rows import weight_rows
from omni_rl.run.assembly import Assembly, assemble, context_of
from omni_rl.run.experience import Sampled
from omni_rl.run.loop import one_iteration
from omni_rl.run.subject import subject_of
from omni_rl.run.weight_sync import give_weights


class Figures:
    """Printed, and on request written, as soon as they are there: an accelerator may be gone before the end."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.all: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), **versions(), "engines": {}}

    def note(self, mode: str, **figures: Any) -> None:
        """Add figures of an engine."""
        self.all["engines"].setdefault(mode, {}).update(figures)
        print(mode, json.dumps(figures), flush=True)
        if self._file:
            self._file.write_text(json.dumps(self.all, indent=1) + "\n")


def measure(run: Assembly, mode: str, iterations: int, figures: Figures) -> None:
    """Rows of the gate and of the metrics with the engine that the run has now."""
    started = time.perf_counter()
    subject = subject_of(run, State())
    probe = draw(subject)
    figures.note(mode, probe_s=round(time.perf_counter() - started, 1))
    gate: list[str] = []
    for row in itertools.chain(replay_rows(subject, probe), weight_rows(subject, probe)):
        gate.append(f"{row.verdict} {row.name}: {row.detail}")
        figures.note(mode, gate=gate)
    rows: list[Any] = []
    size = run.config.rollout.prompts * run.config.rollout.group_size
    for _ in range(iterations):
        rows.append(one_iteration(run, State(), print)[1])
        speed = [round(size / row["time/rollout_s"], 3) for row in rows]
        figures.note(mode, iterations=rows, images_per_rollout_s=speed, gpu_gib_in_use=gpu_gib_in_use())


def gpu_gib_in_use() -> float | None:
    """Of all processes together."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return round((total - free) / 2**30, 1)


def with_engine(run: Assembly, config: Path, overrides: Sequence[str]) -> tuple[Assembly, float]:
    """The run with another engine; the seconds that it takes to start."""
    started = time.perf_counter()
    resolved = resolve(config, overrides)
    engine = resolved.engine.object(context_of(resolved, run.hooks, resolved.engine.options, run.backend.model))
    samples_with = run.traits.samples_with
    source = Sampled(run.config, run.hooks, run.prompts, run.backend, engine, run.rewards, samples_with)
    give_weights(run.backend, engine, 0, samples_with)
    return replace(run, engine=engine, source=source), time.perf_counter() - started


def main() -> None:
    """One engine after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["stepwise", "requests", "embedded"])
    parser.add_argument("--engine-override", action="append", default=[], help="for vllm-omni only")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = Figures(arguments.json)
    if torch.cuda.is_available():
        figures.all["gpu"] = torch.cuda.get_device_name()
    run = assemble(resolve(arguments.config, [*MODES["embedded"], *arguments.overrides]))
    for mode in arguments.modes:
        own = [] if mode == "embedded" else arguments.engine_override
        run.engine.close()
        run, seconds = with_engine(run, arguments.config, [*MODES[mode], *own, *arguments.overrides])
        figures.note(mode, start_s=round(seconds, 1))
        measure(run, mode, arguments.iterations, figures)
    run.engine.close()  # not the one that assemble() built
    run.built.close()


if __name__ == "__main__":
    main()
