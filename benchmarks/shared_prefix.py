"""What it saves that samples of a group are one sample until their window opens (``rollout.share_initial_noise``).

Rollouts of the quickstart's model with a window of two steps at the end of ten, in turns with the prefix shared and
drawn for every sample; the same requests, the same draws.

    python benchmarks/shared_prefix.py [--pairs 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from omni_rl.config.resolve import resolve
from omni_rl.run.assembly import Assembly, assemble
from omni_rl.sampling import denoise
from omni_rl.sampling.plan_requests import rollout_requests

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
CHANGES = ["rollout.steps=10", "algorithm.window_size=2", "algorithm.window_range=[7, 9]"]


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Every sample for itself."""
    with mock.patch.object(denoise, "sharing", list):
        yield


def seconds(run: Assembly) -> float:
    """Of one rollout."""
    requests = rollout_requests(run.config, run.hooks, run.prompts, 0, 0)
    started = time.perf_counter()
    run.engine.submit(requests)
    assert all(sample.error is None for sample in run.engine.completed())
    return time.perf_counter() - started


def main() -> None:
    """Print and, on request, write medians and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    run = assemble(resolve(QUICKSTART, [*CHANGES, "rollout.share_initial_noise=true"]))
    seconds(run)  # shapes and schedules are found out
    shared, alone = [], []
    for _ in range(arguments.pairs):
        shared.append(seconds(run))
        with apart():
            alone.append(seconds(run))
    run.built.close()
    found = {
        "changes": CHANGES,
        "shared_s": round(statistics.median(shared), 3),
        "apart_s": round(statistics.median(alone), 3),
        "ratio": round(statistics.median(alone) / statistics.median(shared), 2),
    }
    print(json.dumps(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
