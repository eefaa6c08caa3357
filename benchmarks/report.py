"""Time and size of the report of a long run. Bars: 10,000 iterations in less than 3 s and 3 MB.

    python benchmarks/report.py [--iterations 10000] [--json FILE]

The metrics have the names of a real run and random values: rewards with standard errors, the actor's figures, times,
and a validation every 100 iterations. The time includes reading ``metrics.jsonl`` and ``validation.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from omni_rl.reporting import artifacts
from omni_rl.reporting.page import write_report
from omni_rl.storage.run_folder import RunDirectory

REWARDS = ("ocr", "aesthetic", "brightness")
ACTOR = ("loss", "grad_norm", "lr", "clip_fraction", "ratio_mean", "ratio_std", "kl", "kl_old", "logp_absdiff_max")
OTHER = ("time/rollout_s", "time/reward_s", "time/update_s", "time/sync_s", "time/iteration_s", "perf/samples_per_s")


def row(iteration: int, rng: np.random.Generator) -> dict[str, float]:
    """The metrics of one iteration."""
    names = ["reward/mean", "reward/stderr", "reward/std", *(f"reward/{name}/mean" for name in REWARDS)]
    names += [*(f"actor/{name}" for name in ACTOR), *OTHER]
    return {"iteration": iteration, **dict(zip(names, rng.normal(size=len(names)).tolist(), strict=True))}


def fill(run: RunDirectory, iterations: int) -> None:
    """Write the metrics and validations."""
    rng = np.random.default_rng(0)
    rows = [row(i, rng) for i in range(1, iterations + 1)]
    run.metrics_file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    held_out = [
        {"iteration": i, "val/reward/mean": float(rng.normal()), "val/reward/stderr": 0.1}
        for i in range(0, iterations + 1, 100)
    ]
    (run.path / "validation.jsonl").write_text("".join(json.dumps(each) + "\n" for each in held_out))


def measure(iterations: int) -> dict[str, float]:
    """Seconds and megabytes."""
    parts: dict[str, Any] = {"title": "a long run", "config_yaml": "", "captions": [], "health": {}, "notes": []}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run")
        fill(run, iterations)
        started = time.perf_counter()
        page = run.path / "report.html"
        write_report(page, metrics=artifacts.history(run), before=[], after=[], **parts)
        seconds = time.perf_counter() - started
        return {"seconds": round(seconds, 3), "megabytes": round(page.stat().st_size / 1e6, 3)}


def main() -> None:
    """Print the figures, and fail if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = (given.iterations // 10, given.iterations, given.iterations * 10)
    found = {"iterations": {str(size): measure(size) for size in sizes}}
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    figures = found["iterations"][str(given.iterations)]
    if given.iterations <= 10_000 and (figures["seconds"] >= 3 or figures["megabytes"] >= 3):
        raise SystemExit("a bar is missed")


if __name__ == "__main__":
    main()
