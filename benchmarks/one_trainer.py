"""One trainer, one engine after the other, for models that take minutes to load: iterations side by side in one run.

    python benchmarks/one_trainer.py CONFIG [--modes stepwise requests embedded] [--iterations 2] [--json FILE]
        [OVERRIDE...] [--engine-override OVERRIDE]...

Every engine draws, scores, updates and synchronises complete iterations; the first one also pays for warming up the
trainer. The log-prob gap is the gate's: stored by the engine against replayed by the trainer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from engines import MODES, versions

from omni_rl.config.resolve import resolve
from omni_rl.engines.base import Context
from omni_rl.gate.probe import draw
from omni_rl.gate.replay_rows import replay_rows
from omni_rl.gate.weight_rows import weight_rows
from omni_rl.loop import one_iteration
from omni_rl.plugins.runspec import RunSpec
from omni_rl.run import Run


def measured(run: Run, iterations: int) -> dict[str, Any]:
    """Rows of the gate and of the metrics with the engine that the run has now."""
    probe = draw(run)
    gate = [f"{r.verdict} {r.name}: {r.detail}" for r in [*replay_rows(run, probe), *weight_rows(run, probe)]]
    rows = [one_iteration(run) for _ in range(iterations)]
    size = run.config.rollout.prompts * run.config.rollout.group_size
    return {
        "gate": gate,
        "iterations": rows,
        "images_per_rollout_s": [round(size / row["time/rollout_s"], 3) for row in rows],
        "gpu_gib_in_use": gpu_gib_in_use(),
    }


def gpu_gib_in_use() -> float | None:
    """Of all processes together."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return round((total - free) / 2**30, 1)


def with_engine(run: Run, config: Path, overrides: Sequence[str]) -> float:
    """Give the run another engine; the seconds that it takes to start."""
    started = time.perf_counter()
    resolved = resolve(config, overrides)
    context = Context(resolved.config, resolved.engine.options, run.model, run.hooks, (), RunSpec.of(resolved))
    run.engine = resolved.engine.object(context)
    run.engine.sync(run.policy_version)
    return time.perf_counter() - started


def main() -> None:
    """Print and, on request, write the figures of every engine as soon as they are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["stepwise", "requests", "embedded"])
    parser.add_argument("--engine-override", action="append", default=[], help="for vllm-omni only")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), **versions(), "engines": {}}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    run = Run(resolve(arguments.config, [*MODES["embedded"], *arguments.overrides]), None)
    for mode in arguments.modes:
        own = [] if mode == "embedded" else arguments.engine_override
        run.engine.close()
        seconds = with_engine(run, arguments.config, [*MODES[mode], *own, *arguments.overrides])
        found["engines"][mode] = {"start_s": round(seconds, 1), **measured(run, arguments.iterations)}
        print(mode, json.dumps(found["engines"][mode], indent=1), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    run.close()


if __name__ == "__main__":
    main()
