"""The quickstart with the backends ``veomni`` and ``torch``, in one environment: are all metrics equal?

    python benchmarks/veomni_curve.py FOLDER    # runs that are in FOLDER/veomni and FOLDER/torch are not made again

The environment is that of ``nox -s veomni``, with ``omni-rl-ocr``. Writes ``results/veomni_quickstart_cpu.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "examples/quickstart.yaml"
RESULT = HERE / "results/veomni_quickstart_cpu.json"
BACKENDS = ("veomni", "torch")
LIBRARIES = ("torch", "diffusers", "transformers", "veomni", "omni-rl")


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a run's file, without times."""
    rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(("time", "perf"))} for row in rows]


def main(folder: Path) -> None:
    """Train with both backends, compare, and write what was found."""
    for backend in BACKENDS:
        if not (folder / backend).exists():
            line = ["omni-rl", "train", str(QUICKSTART), f"train.backend={backend}"]
            subprocess.run([*line, "--run-dir", str(folder / backend)], check=True)
    metrics, held_out = ([rows_of(folder / b, f"{n}.jsonl") for b in BACKENDS] for n in ("metrics", "validation"))
    result = {
        "command": "python benchmarks/veomni_curve.py FOLDER",
        "device": "cpu",
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "iterations": len(metrics[0]),
        "metrics_compared": sum(len(row) for row in metrics[0]),
        "equal_to_the_last_bit": metrics[0] == metrics[1] and held_out[0] == held_out[1],
        "held_out": {
            backend: [[row["iteration"], row["val/reward/mean"]] for row in rows]
            for backend, rows in zip(BACKENDS, held_out, strict=True)
        },
        "reward": {
            backend: [row["reward/mean"] for row in rows] for backend, rows in zip(BACKENDS, metrics, strict=True)
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
