"""An untrained model learns to paint brightly within seconds, and only because of its updates."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
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


ALGORITHMS = {
    "mix_grpo": ("algorithm.window_size=3", "algorithm.iterations_per_position=2"),
    "dance_grpo": ("rollout.sde.noise_level=0.7",),
    "grpo_guard": (),
    "flow_dppo": ("algorithm.threshold=1e-3",),
    "diffusion_nft": ("algorithm.beta=0.3", "algorithm.decay=copy"),
    "awm": ("algorithm.weighting=t",),
    "diffusion_dpo": ("algorithm.beta=500",),
}
"""Every online algorithm but the recipe's own, and what it is told beside the recipe."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("flow_dppo", "diffusion_nft") else pytest.mark.full) for n in ALGORITHMS]
)
def test_brightness_rises_with_every_algorithm(recipe: dict[str, Any], tmp_path: Path, name: str) -> None:
    recipe["algorithm"] = {"name": name}
    assert gain(rewards(recipe, tmp_path, *ALGORITHMS[name])) > 0.15


def test_every_online_algorithm_is_tried() -> None:
    known = {entry.name for entry in entry_points(group="omni_rl.algorithms")}
    assert {*ALGORITHMS, "flow_grpo"} == {name for name in known if not name.endswith("_offline")}


def test_a_learning_rate_of_zero_teaches_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert abs(gain(rewards(recipe, tmp_path, "train.lr=0"))) < 0.02
