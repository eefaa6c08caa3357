"""A tiny real model, a run of seconds, and two ways to run the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

PROMPTS = ["a red card", "a dark night by the sea", "snow", "two blue birds"]


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained QwenImagePipeline."""
    from omni_rl_tiny import build_random

    return build_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """The smallest run: two prompts times four pictures of 32 x 32 pixels, two updates an iteration."""
    (tmp_path / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return {
        "seed": 3,
        "model": {"path": str(tiny_model)},
        "algorithm": {"name": "flow_grpo", "clip_range": 1e-3},
        "rollout": {
            "steps": 3,
            "prompts": 2,
            "group_size": 4,
            "batch_size": 8,
            "sde": {"noise_level": 1.0},
            "call": {"height": 32, "width": 32},
        },
        "reward": [{"name": "brightness"}],
        "data": {"path": str(tmp_path / "prompts.txt")},
        "train": {"iterations": 3, "lr": 3e-3, "micro_batch_size": 8, "mini_batch_prompts": 1},
        "validation": {"every": 0},
        "device": "cpu",
        "gate": "off",
    }


@pytest.fixture
def config_file(recipe: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """``config_file(seed=4)``: the recipe as a file, sections merged with the given ones."""

    def write(**changes: Any) -> Path:
        merged = {
            key: {**recipe.get(key, {}), **value} if isinstance(value, dict) else value
            for key, value in changes.items()
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({**recipe, **merged}, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def command() -> str:
    """The installed console script."""
    return str(Path(sys.executable).with_name("omni-rl"))


@pytest.fixture
def spawn(command: str, tmp_path: Path) -> Callable[..., Outcome]:
    """``spawn("train", config)``: the console script in a process of its own, in the test's folder."""

    def run(*arguments: object, before: tuple[str, ...] = ()) -> Outcome:
        words = [*before, command, *map(str, arguments)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=os.environ)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """As ``spawn``, but the script's entry point in this process: seconds faster."""
    from omni_rl.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["omni-rl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def figures() -> Callable[[Path], list[dict[str, float]]]:
    """A run's rows of metrics.jsonl but for what depends on the clock."""
    from omni_rl.storage.run_folder import RunDirectory

    def read(run_dir: Path) -> list[dict[str, float]]:
        rows = RunDirectory(run_dir).metrics()
        return [{k: v for k, v in row.items() if not k.startswith(("time/", "perf/"))} for row in rows]

    return read


@pytest.fixture(scope="session")
def weights() -> Callable[..., dict[str, torch.Tensor]]:
    """Every tensor of a run's checkpoint: policy, average, optimizer."""
    from omni_rl.storage import checkpoint
    from omni_rl.storage.run_folder import RunDirectory

    def read(run_dir: Path, iteration: int | None = None) -> dict[str, torch.Tensor]:
        newest = checkpoint.latest(RunDirectory(run_dir))
        assert newest is not None
        folder = newest if iteration is None else newest.with_name(f"iteration-{iteration:06d}")
        return checkpoint.load(folder)[0]

    return read
