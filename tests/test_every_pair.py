"""Every algorithm with every model, through the gate: what composes needs no code for the pair."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni_rl import train

sys.path.append(str(Path(__file__).parents[1] / "core/tests"))  # tiny_pipelines

pytestmark = [
    pytest.mark.ci,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),  # diffusers
]

ALGORITHMS = sorted(entry.name for entry in entry_points(group="omni_rl.algorithms"))
ARCHITECTURES = [
    "QwenImagePipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "Flux2Pipeline",
    "Flux2KleinPipeline",
    "WanPipeline",
    "LTX2Pipeline",
    "SanaPipeline",
    "ZImagePipeline",
]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    import tiny_pipelines

    return tiny_pipelines.built_once(tmp_path_factory.mktemp)


def write_pairs(folder: Path) -> Path:
    """Four pairs of a light picture, preferred, and a dark one."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        for side, level in (("chosen", 150), ("rejected", 20)):
            pixels = rng.integers(level, level + 80, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{side}{number}.png")
        rows.append({"prompt": "a sign", "chosen": f"chosen{number}.png", "rejected": f"rejected{number}.png"})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(algorithm: str, model: Path, call: dict[str, Any], data: Path) -> dict[str, Any]:
    return {
        "model": {"path": str(model), "lora": {"rank": 2, "alpha": 4}},
        "algorithm": {"name": algorithm},
        "rollout": {"steps": 4, "prompts": 2, "group_size": 3, "batch_size": 6, "call": call},
        "reward": "brightness",
        "data": {"path": str(data)},
        "train": {"iterations": 2, "micro_batch_size": 4, "lr": 1e-3},
        "validation": {"every": 0},
        "device": "cpu",
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pair_needs_no_code(
    algorithm: str,
    architecture: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two iterations; the gate is on and ends a run in which any row is red."""
    import tiny_pipelines

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if algorithm.endswith("_offline"):
        if architecture in ("WanPipeline", "LTX2Pipeline"):
            pytest.skip("pairs are pictures, and this model makes videos")
        data = write_pairs(tmp_path)
    else:
        data = tmp_path / "prompts.txt"
        data.write_text("a sign that says hello\nthe world\n")
    call = tiny_pipelines.CALLS[architecture]
    run = train(recipe(algorithm, tiny_folder(architecture), call, data), run_dir=tmp_path / "run")
    assert run.gate
    assert [row for row in run.gate if row.verdict == "fail"] == []
    assert [row["iteration"] for row in run.metrics] == [1, 2]
    assert [row["actor/updates"] for row in run.metrics] == [1, 1]
    assert run.metrics[0]["actor/grad_norm"] > 0  # later a pair may be told apart beyond what fp32 holds
    assert all(math.isfinite(row["actor/grad_norm"]) for row in run.metrics)
