"""Every example of an algorithm teaches what it says, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples/algorithms").glob("*.yaml"))
ONLINE = [path for path in EXAMPLES if not path.stem.endswith("_offline")]

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


def validations(spawn: Callable[..., Any], folder: Path, *arguments: object) -> list[dict[str, float]]:
    outcome = spawn("train", *arguments, "--run-dir", folder)
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("example", ONLINE, ids=[path.stem for path in ONLINE])
def test_held_out_scores_rise(spawn: Callable[..., Any], tmp_path: Path, example: Path) -> None:
    """By 0.15 at least; benchmarks/algorithms.py has the figures of several seeds."""
    first, *_, last = validations(spawn, tmp_path / "run", example)
    assert last["val/reward/mean"] - first["val/reward/mean"] >= 0.15


def test_pairs_are_told_apart_and_pictures_follow(
    spawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On numbers that no pair was of: the preferred picture is the likelier one, and grounds get lighter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (example,) = set(EXAMPLES) - set(ONLINE)
    first, *_, last = validations(spawn, tmp_path / "run", example)
    assert first["val/pairs/implicit_acc"] <= 0.5
    assert last["val/pairs/implicit_acc"] > 0.8
    assert last["val/reward/mean"] - first["val/reward/mean"] > 0.1
