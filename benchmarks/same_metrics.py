"""The quickstart's metrics at two commits, seed by seed: every key of the older rows must have the same bits.

    python benchmarks/same_metrics.py OLD_PYTHON [--seeds 5] [--work FOLDER] [--json FILE]

OLD_PYTHON is the interpreter of an environment with the older omni-rl and the quickstart's plugins installed. Durations
(``time/...``, ``perf/samples_per_s``) are left out; new keys are allowed. A run that is complete in FOLDER is not run
again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TIMES = ("time/", "perf/samples_per_s")


def rows(python: str, seed: int, run: Path) -> list[dict[str, Any]]:
    """The metrics rows of a run; it is trained first if ``run`` does not exist."""
    if not run.exists():
        command = [
            str(Path(python).parent / "omni-rl"),
            "train",
            str(QUICKSTART),
            f"seed={seed}",
            "--run-dir",
            str(run),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def compare(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[str, Any]:
    """How many values of ``old`` are bit-equal in ``new``, and which are not. JSON keeps all bits of a float64."""
    pairs = [
        (before["iteration"], key, before[key], after.get(key))
        for before, after in zip(old, new, strict=True)
        for key in before
        if not key.startswith(TIMES)
    ]
    different = [(iteration, key, was, now) for iteration, key, was, now in pairs if json.dumps(was) != json.dumps(now)]
    added = sorted(set().union(*new) - set().union(*old))
    return {"rows": len(new), "values": len(pairs), "different": different, "new_keys": added}


def main() -> None:
    """Train both, compare, and print one line for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old_python")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    results = {}
    for seed in range(options.seeds):
        sides = ((options.old_python, "old"), (sys.executable, "new"))
        old, new = (rows(python, seed, work / side / str(seed)) for python, side in sides)
        results[seed] = compare(old, new)
        print(f"seed {seed}: {json.dumps(results[seed])}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(any(result["different"] for result in results.values()))


if __name__ == "__main__":
    main()
