"""Runs of two processes with VeOmni's FSDP2: the results of one process with the backend ``torch``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from omni_rl import train

pytestmark = pytest.mark.full

LORA = {"rank": 2, "alpha": 4}


@pytest.fixture
def trained(tiny_folder, tmp_path):
    """``trained(backend, processes, lora, **options)``: the metrics of a short run, and its last checkpoint's weights.

    A learning rate that changes little: Adam divides gradients that are only rounding by their own size.
    """
    (tmp_path / "prompts.txt").write_text("a red card\na dark night by the sea\nsnow\ntwo blue birds\n")

    def run(backend: str, processes: int, lora: dict[str, Any] | None = None, **options: Any) -> list[dict[str, Any]]:
        config = {
            "seed": 3,
            "model": {"path": str(tiny_folder("WanPipeline")), "lora": lora},
            "algorithm": {"name": "flow_grpo", "clip_range": 1e-3},
            "rollout": {
                "steps": 2,
                "prompts": 3,
                "group_size": 3,
                "sde": {"noise_level": 1.0},
                "call": {"height": 16, "width": 16, "num_frames": 5},
            },
            "reward": "brightness",
            "data": {"path": str(tmp_path / "prompts.txt")},
            "train": {"backend": backend, "iterations": 2, "lr": 1e-4, "mini_batch_prompts": 2, **options},
            "validation": {"every": 0},
            "device": "cpu",
            "gate": "off",
            "launcher": {"name": "torchrun", "processes": processes} if processes > 1 else {"name": "local"},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        folder = Path(tmp_path, f"{backend}-{processes}-{bool(lora)}-{len(options)}")
        train(path, run_dir=folder)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.mark.parametrize(
    ("lora", "options"),
    [(None, {}), (LORA, {"sharding": "sharded", "replicas": 2}), (LORA, {"sharding": "replicated"})],
    ids=["full-sharded", "lora-two-copies", "lora-replicated"],
)
def test_two_processes_do_what_one_does(trained, lora, options):
    one, two = trained("torch", 1, lora), trained("veomni", 2, lora, **options)
    assert len(one) == len(two) == 2
    names = [n for n in one[0] if n.startswith(("actor/", "reward/"))]
    assert {"actor/grad_norm", "actor/loss", "reward/mean"} <= set(names)
    for row, same in zip(one, two, strict=True):
        assert {n: row[n] for n in names} == pytest.approx({n: same[n] for n in names}, rel=1e-3, abs=3e-5)
    assert one[0]["actor/grad_norm"] > 0
    assert two[0]["actor/grad_norm"] == pytest.approx(one[0]["actor/grad_norm"], rel=1e-5)
