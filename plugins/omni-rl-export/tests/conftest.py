"""A small run to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omni_rl import train
from omni_rl.run.start import Run
from omni_rl_tiny import pipelines


@pytest.fixture(scope="module")
def trained(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two iterations with adapters whose alpha is not their rank, an average, and a checkpoint of each."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "prompts.txt").write_text("hello world\na sign\n")
    config: dict[str, Any] = {
        "model": {"path": str(tiny_folder("StableDiffusion3Pipeline")), "lora": {"rank": 2, "alpha": 6}},
        "algorithm": {"name": "flow_grpo"},
        "rollout": {"steps": 2, "prompts": 1, "group_size": 2, "call": pipelines.CALLS["StableDiffusion3Pipeline"]},
        "reward": "jpeg_compressibility",
        "data": {"path": str(folder / "prompts.txt")},
        "train": {"iterations": 2, "lr": 1e-2, "checkpoint_every": 1, "ema": {"decay": 0.5}},
        "validation": {"every": 0, "samples_per_prompt": 2},
        "device": "cpu",
        "gate": "off",
    }
    return train(config, run_dir=folder / "run")
