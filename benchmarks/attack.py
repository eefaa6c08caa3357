"""Everything that tries to make a run lose work, read what it must not, or end in a traceback: tried and survived.

    python benchmarks/attack.py [--workers 2] [--json FILE] [PYTEST ARGUMENTS]

Runs ``tests/attack`` with all tiers. A test gives the counts of a schedule as a property of its report, with
``schedules.report``; counts of several tests with one schedule are added. A test that fails gives its counts too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks/results/attack.json"
PROPERTY = "attack"


def attack(report: Path, workers: int, arguments: list[str]) -> int:
    """Run the tests and write pytest's report; returns the exit code."""
    command = [sys.executable, "-m", "pytest", "tests/attack", "-m", "", "-n", str(workers), "--dist", "worksteal"]
    return subprocess.run([*command, f"--junitxml={report}", *arguments], cwd=ROOT, check=False).returncode


def counts(report: Path) -> dict[str, dict[str, Any]]:
    """The counts in pytest's report, by schedule."""
    schedules: dict[str, dict[str, Any]] = {}
    for each in ElementTree.parse(report).iter("property"):
        if each.get("name") == PROPERTY:
            add(schedules, json.loads(each.get("value", "{}")))
    return dict(sorted(schedules.items()))


def add(schedules: dict[str, dict[str, Any]], found: dict[str, Any]) -> None:
    """Add the counts of one test to those of its schedule; of a worst value, keep the larger."""
    known = schedules.setdefault(found.pop("schedule"), {})
    for name, value in found.items():
        known[name] = max(known.get(name, 0), value) if name.startswith("worst") else known.get(name, 0) + value


def main() -> int:
    """Attack, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes that attack at the same time")
    parser.add_argument("--json", type=Path, default=RESULT, help="file for the result")
    options, arguments = parser.parse_known_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        code = attack(report, options.workers, arguments)
        schedules = counts(report)
    result = {
        "command": " ".join(["python benchmarks/attack.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "seconds": round(time.monotonic() - began),
        "tried": sum(each["tried"] for each in schedules.values()),
        "survived": sum(each["survived"] for each in schedules.values()),
        "schedules": schedules,
    }
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return code


if __name__ == "__main__":
    sys.exit(main())
