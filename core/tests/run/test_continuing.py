"""A run continues from a point of its own only, whatever its files became."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from omni_rl.errors import CheckpointError
from omni_rl.run.continuing import find, last_validation_differs
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory, metrics_hash, row_hashes

ROWS = [{"iteration": 1, "reward/mean": 0.25}, {"iteration": 2, "reward/mean": float("nan"), "val/reward/mean": 0.5}]
VALIDATIONS = [{"iteration": 0, "val/reward/mean": 0.25}, {"iteration": 1, "val/reward/mean": 0.5}]


def write(directory: RunDirectory, name: str, rows: list[dict[str, Any]]) -> None:
    (directory.path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with a checkpoint of iteration 2."""
    directory = RunDirectory.create(tmp_path / "run")
    write(directory, "metrics.jsonl", ROWS)
    write(directory, "validation.jsonl", VALIDATIONS)
    directory.write_json("provenance.json", {"run": "a"})
    save(directory)
    return directory


def save(directory: RunDirectory, **changes: Any) -> None:
    state = {
        "iteration": 2,
        "policy_version": 2,
        "architecture": "TinyPipeline",
        "model_fingerprint": "f",
        "run": "a",
        "row": {**ROWS[1]},
        "config": {"model": {"lora": None}, "train": {"ema": None}},
        "metrics_sha256": metrics_hash(ROWS),
        "validations": row_hashes(VALIDATIONS),
    }
    checkpoint.save(directory, {"policy/w": torch.zeros(2)}, state | changes, keep=1)


def test_the_runs_own_point(run: RunDirectory) -> None:
    point = find(run)
    assert (point.iteration, point.run, point.row["iteration"]) == (2, "a", 2)
    write(run, "metrics.jsonl", ROWS[:1])  # the last row is in the checkpoint
    assert find(run).iteration == 2
    write(run, "validation.jsonl", [*VALIDATIONS, {"iteration": 2, "val/reward/mean": 0.5}])
    assert find(run).iteration == 2
    write(run, "validation.jsonl", VALIDATIONS[1:])  # allowed, and told by the differences
    assert find(run).iteration == 2


@pytest.mark.parametrize(
    "rows",
    [[*VALIDATIONS, VALIDATIONS[1]], VALIDATIONS[::-1], [{**VALIDATIONS[0], "val/reward/mean": 0.26}, VALIDATIONS[1]]],
)
def test_other_validations(run: RunDirectory, rows: list[dict[str, Any]]) -> None:
    write(run, "validation.jsonl", rows)
    with pytest.raises(CheckpointError, match=r"validation\.jsonl has (other figures|double)"):
        find(run)


@pytest.mark.parametrize("number", [0, 1])
def test_another_validation_in_the_metrics(run: RunDirectory, number: int) -> None:
    write(run, "metrics.jsonl", [{**row, "val/reward/mean": 0.9} if i == number else row for i, row in enumerate(ROWS)])
    with pytest.raises(CheckpointError, match="does not have the figures that this run wrote"):
        find(run)


def test_a_validation_that_was_made_after_the_checkpoint(run: RunDirectory) -> None:
    save(run, row={"iteration": 2, "reward/mean": float("nan")})
    write(run, "metrics.jsonl", [ROWS[0], {**ROWS[1], "val/reward/mean": 0.75}])
    assert find(run).iteration == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"row": {"iteration": 1}},
        {"row": {"iteration": 2, "loss": "0"}},
        {"row": {"loss": 0.0}},
        {"row": {**ROWS[1], "policy_version": 1}},
        {"config": {"model": 5, "train": {}}},
        {"config": {"seed": 1}},
    ],
)
def test_a_state_of_another_form(run: RunDirectory, changes: dict[str, Any]) -> None:
    save(run, **changes)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        find(run)


def test_another_validation_of_the_checkpoints_own_iteration_is_made_again(run: RunDirectory) -> None:
    own = {"iteration": 2, "val/reward/mean": 0.5}
    save(run, validations=row_hashes([*VALIDATIONS, own]))
    write(run, "validation.jsonl", [*VALIDATIONS, own])
    assert not last_validation_differs(find(run), run)
    write(run, "validation.jsonl", [*VALIDATIONS, {**own, "val/reward/mean": 0.6}])
    assert last_validation_differs(find(run), run)
    write(run, "validation.jsonl", VALIDATIONS)  # is missing: made again anyway
    assert not last_validation_differs(find(run), run)
