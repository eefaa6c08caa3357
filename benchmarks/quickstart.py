"""The quickstart as its reader runs it, five seeds: held-out scores by two recognisers, and wall time.

Every run is the command line in a process of its own, imports, gate and validations included. The second recogniser
(tesseract, if it is installed) reads the same pictures and has no say in training.

    python benchmarks/quickstart.py [--seeds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
LOOKERS = "validation.reward=[ocr, {name: ocr_tesseract, weight: 0, characters: '0123456789'}]"
KEPT = ("iteration", "reward/mean", "actor/logp_absdiff_max", "actor/grad_norm", "time/iteration_s")


def trained(*overrides: str) -> dict[str, Any]:
    """One run: seconds, its validations, and what its iterations are watched by."""
    looking = [LOOKERS] if shutil.which("tesseract") else []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "run")
        line = ["omni-rl", "train", str(QUICKSTART), *looking, *overrides, "--run-dir", str(folder)]
        started = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        held_out = [json.loads(text) for text in (folder / "validation.jsonl").read_text().splitlines()]
    return {
        "overrides": overrides,
        "seconds": round(seconds, 1),
        "before": held_out[0]["val/reward/mean"],
        "after": held_out[-1]["val/reward/mean"],
        "before_tesseract": held_out[0].get("val/reward/ocr_tesseract/mean"),
        "after_tesseract": held_out[-1].get("val/reward/ocr_tesseract/mean"),
        "validations": [[row["iteration"], row["val/reward/mean"]] for row in held_out],
        "largest_replay_error": max(row["actor/logp_absdiff_max"] for row in rows),
        "iterations": [{name: row[name] for name in KEPT} for row in rows],
    }


def main() -> None:
    """Print and, on request, write the figures of all runs; the last one is the control without updates."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    runs = []
    for overrides in [*([f"seed={seed}"] for seed in range(arguments.seeds)), ["train.lr=0"]]:
        runs.append(trained(*overrides))
        print({k: v for k, v in runs[-1].items() if k != "iterations"}, flush=True)
    versions = {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "omni-rl")}
    figures = {
        "command": " ".join(["python", *sys.argv]),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
        "runs": runs,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
