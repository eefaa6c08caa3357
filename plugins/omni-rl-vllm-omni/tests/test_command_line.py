"""Runs through the command line, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.ci

MURDEROUS = '''"""Brightness, by a file that ends the engine's worker once, while samples are under way."""

import os
import signal
from pathlib import Path

import psutil

VICTIM = Path(__file__).with_name("victim")


def score(batch):
    if os.environ.get("KILL") and not VICTIM.exists() and 3 in batch.uids:  # of the second iteration
        below = psutil.Process().children(recursive=True)
        (worker,) = [p for p in below if "DiffusionWorker" in " ".join(p.cmdline())]
        VICTIM.write_text(str(worker.pid))
        os.kill(worker.pid, signal.SIGKILL)
    return [float(media["image"].data.mean() / 255) for media in batch.media]
'''


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained QwenImagePipeline."""
    from omni_rl_tiny import build_random

    return build_random(tmp_path_factory.mktemp("models") / "tiny")


def trained(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, kill: str) -> list[dict[str, float]]:
    """What a run of three iterations wrote into metrics.jsonl, but for what depends on the clock."""
    folder.mkdir()
    (folder / "score.py").write_text(MURDEROUS)
    (folder / "prompts.txt").write_text("a red card\na dark night by the sea\nsnow\ntwo blue birds\n")
    recipe: dict[str, Any] = {
        "seed": 3,
        "model": {"path": str(model)},
        "algorithm": {"name": "flow_grpo", "clip_range": 1e-3},
        "rollout": {
            "engine": "vllm-omni",
            "max_num_seqs": 2,
            "steps": 3,
            "prompts": 3,
            "group_size": 4,
            "sde": {"noise_level": 1.0},
            "call": {"height": 32, "width": 32},
        },
        "reward": {"name": "python", "file": "score.py"},
        "data": {"path": "prompts.txt"},
        "train": {"iterations": 3, "lr": 3e-3, "micro_batch_size": 12, "mini_batch_prompts": 3},
        "validation": {"every": 0},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setenv("KILL", kill)
    command = [Path(sys.executable).with_name("omni-rl"), "train", "run.yaml", "--run-dir", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "perf/"))} for row in rows]


def test_a_worker_that_dies_changes_no_metric(tmp_path, model, monkeypatch):
    """With a reward that follows the pixels smoothly, every figure is the undisturbed run's to 1e-5."""
    undisturbed = trained(tmp_path / "undisturbed", model, monkeypatch, kill="")
    disturbed = trained(tmp_path / "disturbed", model, monkeypatch, kill="1")
    assert (tmp_path / "disturbed/victim").exists()
    assert not (tmp_path / "undisturbed/victim").exists()
    assert len(undisturbed) == len(disturbed) == 3
    for before, after in zip(undisturbed, disturbed, strict=True):
        assert before == pytest.approx(after, rel=1e-5, abs=1e-5)
