"""What an installed observer sees of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omni_rl import train

pytestmark = pytest.mark.ci

WATCHER = """
from omni_rl import hookimpl

seen = []


@hookimpl
def on_run_start(run):
    seen.append("start")


@hookimpl
def on_iteration_end(run, row):
    seen.append(row["iteration"])


@hookimpl
def on_validation(run, iteration, samples, rewards):
    assert len(samples) == len(rewards)
    seen.append(f"validation {iteration}")


@hookimpl
def on_checkpoint(run, path):
    seen.append("checkpoint")


@hookimpl
def on_run_end(run, error):
    seen.append(type(error).__name__)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that watches every run."""
    info = tmp_path / "site/omni_rl_watch-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: omni-rl-watch\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[omni_rl.plugins]\nwatch = watch_code\n[omni_rl.contract]\n2 = watch_code\n"
    )
    (tmp_path / "site/watch_code.py").write_text(WATCHER)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("installed")
def test_it_is_told_everything_in_order(recipe: dict[str, Any], tmp_path: Path) -> None:
    train(recipe, ["train.iterations=2"], tmp_path / "run")
    import watch_code  # type: ignore[import-not-found]

    assert watch_code.seen == ["start", "validation 0", 1, "validation 2", 2, "checkpoint", "NoneType"]
