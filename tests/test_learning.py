"""An untrained model learns to paint brightly within seconds, and only because of its updates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from omni_rl import train

pytestmark = pytest.mark.ci

ITERATIONS = 16


def rewards(recipe: Mapping[str, Any], folder: Path, *overrides: str) -> list[float]:
    settings = ["rollout.steps=6", "rollout.prompts=4", "rollout.group_size=8", "rollout.batch_size=32"]
    settings += ["train.mini_batch_prompts=2", "train.micro_batch_size=32", f"train.iterations={ITERATIONS}"]
    run = train(recipe, [*settings, *overrides], folder / "run")
    return [row["reward/mean"] for row in run.metrics]


def gain(values: list[float]) -> float:
    assert len(values) == ITERATIONS
    return sum(values[-3:]) / 3 - sum(values[:3]) / 3


@pytest.mark.parametrize("what", [(), ("model.lora.rank=8", "train.lr=1e-2")], ids=["full", "lora"])
def test_brightness_rises(recipe: dict[str, Any], tmp_path: Path, what: tuple[str, ...]) -> None:
    assert gain(rewards(recipe, tmp_path, *what)) > 0.15


def test_a_learning_rate_of_zero_teaches_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert abs(gain(rewards(recipe, tmp_path, "train.lr=0"))) < 0.02
