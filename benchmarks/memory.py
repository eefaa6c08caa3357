"""Growth of a run's memory. Bar: less than 0.5 MB in 100 iterations.

    python benchmarks/memory.py [--iterations 300] [--json FILE] [KEY=VALUE ...]

A small run of the command line, with a validation every 25 iterations and a checkpoint every 50, in a process of its
own. A tracker reads the resident memory at the end of each iteration; the slope is the least-squares line without the
first 60, in which caches fill.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from omni_rl import hookimpl

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
FIRST = 60
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


class Resident:
    """A tracker that writes the resident memory, in MB, at the end of each iteration."""

    class Config(BaseModel):
        """``file``: where to."""

        model_config = ConfigDict(extra="forbid")

        file: str

    def __init__(self, config: Config) -> None:
        self._file = Path(config.file)

    @hookimpl
    def on_iteration_end(self, row: Mapping[str, float]) -> None:
        """One line."""
        with self._file.open("a") as lines:
            lines.write(f"{psutil.Process().memory_info().rss / 1e6}\n")

    def state(self) -> dict[str, Any]:
        """Nothing to go on with."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on with."""

    def close(self, failed: bool = False) -> None:
        """Every line is written already."""


OMNI_RL = {"trackers": {"resident": Resident}}


def watch(iterations: int, overrides: list[str]) -> list[float]:
    """Train; the resident memory in MB at the end of each iteration."""
    with tempfile.TemporaryDirectory() as folder:
        run, file = Path(folder) / "run", Path(folder) / "resident.txt"
        command = [str(Path(sys.executable).with_name("omni-rl")), "train", str(QUICKSTART), "--run-dir", str(run)]
        command += [*SMALL, f"plugins=[{__file__}]", f"tracker={{name: resident, file: {file}}}"]
        subprocess.run([*command, f"train.iterations={iterations}", *overrides], check=True)
        return [float(line) for line in file.read_text().splitlines()]


def main() -> None:
    """Print the slope, and fail if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    resident = watch(given.iterations, given.overrides)
    slope = np.polyfit(np.arange(FIRST, len(resident)), resident[FIRST:], 1)[0] * 100
    figures = {
        "command": " ".join(["python benchmarks/memory.py", *sys.argv[1:]]),
        "iterations": given.iterations,
        "megabytes_after_60": round(resident[FIRST], 1),
        "megabytes_at_the_end": round(resident[-1], 1),
        "slope_megabytes_per_100": round(float(slope), 3),
    }
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    if slope >= 0.5:
        raise SystemExit("the bar is missed")


if __name__ == "__main__":
    main()
