"""Every algorithm with every model, through the gate: what composes needs no code for the pair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni_rl import train
from omni_rl_tiny import pipelines
from omni_rl_tiny.pipelines import pictures

pytestmark = [
    pytest.mark.ci,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),  # diffusers
]

ALGORITHMS = sorted(entry.name for entry in entry_points(group="omni_rl.algorithms"))
WITHOUT_PLUGIN = "SanaPipeline"
ARCHITECTURES = [*sorted(entry.name for entry in entry_points(group="omni_rl.models")), WITHOUT_PLUGIN]
VIDEO = {"WanPipeline", "WanImageToVideoPipeline", "LTX2Pipeline"}
PAIRS = [
    pytest.param(algorithm, architecture, marks=() if (row + 2 * column) % 17 == 0 else pytest.mark.full)
    for row, algorithm in enumerate(ALGORITHMS)
    for column, architecture in enumerate(ARCHITECTURES)
]
"""One in 17 before the full tier."""


def prompts() -> list[dict[str, Any]]:
    return [{"prompt": "a sign that says hello"}, {"prompt": "the world"}]


def write_pairs(folder: Path) -> list[dict[str, Any]]:
    """Four pairs of a light picture, preferred, and a dark one."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        for side, level in (("chosen", 150), ("rejected", 20)):
            pixels = rng.integers(level, level + 80, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{side}{number}.png")
        rows.append({"prompt": "a sign", "chosen": f"chosen{number}.png", "rejected": f"rejected{number}.png"})
    return rows


def with_pictures(architecture: str, rows: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, str]]:
    """Gives each row what its pipeline starts from; the key of ``data`` that says so."""
    if architecture not in pipelines.FROM_PICTURES:
        return {}
    for number, row in enumerate(rows):
        name = pictures.picture(folder / f"{number}.png", (32, 32), number)
        row["source"] = [name, name] if architecture == "QwenImageEditPlusPipeline" else name
    return {"media": {"image": "source"}}


def recipe(algorithm: str, model: Path, call: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": {"path": str(model), "lora": {"rank": 2, "alpha": 4}},
        "algorithm": {"name": algorithm},
        "rollout": {"steps": 4, "prompts": 2, "group_size": 3, "batch_size": 6, "call": call},
        "reward": "brightness",
        "data": data,
        "train": {"iterations": 2, "micro_batch_size": 4, "lr": 1e-3},
        "validation": {"every": 0},
        "device": "cpu",
    }


@pytest.mark.parametrize(("algorithm", "architecture"), PAIRS)
def test_a_pair_needs_no_code(
    algorithm: str,
    architecture: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two iterations; the gate is on and ends a run in which any row is red."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures.small_pictures(monkeypatch)
    if algorithm.endswith("_offline") and architecture in VIDEO:
        pytest.skip("pairs are pictures, and this model makes videos")
    if algorithm.endswith("_offline") and architecture in pipelines.FROM_PICTURES:
        pytest.skip("algorithms that learn from pairs take no pictures to start from; check says so")
    rows = write_pairs(tmp_path) if algorithm.endswith("_offline") else prompts()
    media = with_pictures(architecture, rows, tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = pipelines.CALLS[architecture]
    model = tiny_folder(architecture)
    run = train(recipe(algorithm, model, call, {"path": str(path), **media}), run_dir=tmp_path / "run")
    assert run.gate
    assert [row for row in run.gate if row.verdict == "fail"] == []
    assert [row["iteration"] for row in run.metrics] == [1, 2]
    assert [row["actor/updates"] for row in run.metrics] == [1, 1]
    assert run.metrics[0]["actor/grad_norm"] > 0  # later a pair may be told apart beyond what fp32 holds
    assert all(math.isfinite(row["actor/grad_norm"]) for row in run.metrics)
