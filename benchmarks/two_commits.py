"""An iteration of the quickstart at two commits, in turns, each in a process of its own.

    python benchmarks/two_commits.py OLD_PYTHON [--pairs 15] [--json FILE]

OLD_PYTHON is the interpreter of an environment with the older omni-rl (7c0af9e or later) and omni-rl-tiny, -ocr,
-flow-grpo and -qwen-image installed. ``train.lr`` is 0, so that all iterations do the same work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
WORKER = """
import sys, time
from omni_rl.config.resolve import resolve

resolved = resolve(sys.argv[1], ["train.lr=0", "gate=off"])
try:
    from omni_rl.contracts import State
    from omni_rl.run.assembly import assemble
    from omni_rl.run.loop import one_iteration
    run = assemble(resolved)
    once = lambda: one_iteration(run, State(), print)
except ImportError:  # before contract 2
    from omni_rl.loop import one_iteration
    from omni_rl.run import Run
    run = Run(resolved, None)
    def once():
        one_iteration(run)
        run.iteration = 0
once()
print("ready", flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    once()
    print(time.perf_counter() - started, flush=True)
"""


class Worker:
    """Runs iterations on demand."""

    def __init__(self, python: str) -> None:
        command = [python, "-c", WORKER, str(QUICKSTART)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def seconds(self) -> float:
        """Of one iteration."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def main() -> None:
    """Print and, on request, write medians and the ratio new / old."""
    parser = argparse.ArgumentParser()
    parser.add_argument("old_python")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    old, new = Worker(arguments.old_python), Worker(sys.executable)
    rows = [(old.seconds(), new.seconds()) for _ in range(arguments.pairs)]
    old.close()
    new.close()
    figures = {
        "old_s": round(statistics.median(a for a, _ in rows), 4),
        "new_s": round(statistics.median(b for _, b in rows), 4),
        "ratio": round(statistics.median(b / a for a, b in rows), 4),
        "ratios": sorted(round(b / a, 4) for a, b in rows),
    }
    print(json.dumps(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
