"""Pages of the documentation that say what tests and plugins say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEST_FOLDERS = ("tests", "core/tests", "core/src/omni_rl/testing", "plugins")


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/known_bugs.md").read_text()))
    files = [path for folder in TEST_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    defined = {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 40
    assert sorted(named - defined) == []


def test_the_table_of_what_runs_with_what_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "tools/compatibility.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
