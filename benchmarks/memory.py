"""Growth of a run's memory. Bar: less than 0.5 MB in 100 iterations.

    python benchmarks/memory.py [--iterations 300] [--json FILE] [KEY=VALUE ...]

A small run of the command line, with a validation every 25 iterations and a checkpoint every 50, in a process of its
own. Its resident memory is read about once in an iteration, at whatever it does then; the slope is the least-squares
line through the medians of 20 iterations each, without the first 60, in which caches fill.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
FIRST, TOGETHER = 60, 20
SMALL = (
    "rollout.prompts=2",
    "rollout.group_size=4",
    "rollout.batch_size=8",
    "train.micro_batch_size=8",
    "train.mini_batch_prompts=2",
    "train.checkpoint_every=50",
    "validation.every=25",
    "validation.prompts=4",
    "gate=off",
)


def watch(iterations: int, overrides: list[str]) -> list[float]:
    """Train; the resident memory in MB after each iteration."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [str(Path(sys.executable).with_name("omni-rl")), "train", str(QUICKSTART), "--run-dir", str(run)]
        command += [*SMALL, f"train.iterations={iterations}", *overrides]
        with open(Path(folder) / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            found = _read(process, run / "metrics.jsonl")
        if process.returncode != 0:
            raise SystemExit((Path(folder) / "log").read_text()[-2000:])
    return found


def _read(process: subprocess.Popen[bytes], metrics: Path) -> list[float]:
    resident, seen = [], 0
    while process.poll() is None:
        done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        if done > seen:
            resident += [psutil.Process(process.pid).memory_info().rss / 1e6] * (done - seen)
            seen = done
        time.sleep(0.05)
    return resident


def main() -> None:
    """Print the slope, and fail if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    resident = watch(given.iterations, given.overrides)[:-1]  # the last value may be read while the report is written
    starts = range(FIRST, len(resident) - TOGETHER + 1, TOGETHER)
    medians = [np.median(resident[start : start + TOGETHER]) for start in starts]
    slope = np.polyfit(starts, medians, 1)[0] * 100
    figures = {
        "command": " ".join(["python benchmarks/memory.py", *sys.argv[1:]]),
        "iterations": given.iterations,
        "megabytes_after_60": round(float(medians[0]), 1),
        "megabytes_at_the_end": round(float(medians[-1]), 1),
        "slope_megabytes_per_100": round(float(slope), 3),
    }
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    if slope >= 0.5:
        raise SystemExit("the bar is missed")


if __name__ == "__main__":
    main()
