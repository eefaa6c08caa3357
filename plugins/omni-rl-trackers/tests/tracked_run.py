"""What a run does with its trackers, without the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from omni_rl.contracts.events import RunInfo, State
from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.contracts.types import Sample
from omni_rl.plugins.manager import Hooks, Layer, build_manager
from omni_rl.schedulers.types import NoiseKey
from omni_rl.storage.run_folder import RunDirectory
from omni_rl_trackers.base import Tracker

CONFIG = {"model": {"path": "tiny"}, "algorithm": {"name": "flow_grpo"}, "reward": "ocr", "data": {"path": "p.txt"}}


def run_in(path: Path) -> RunInfo:
    directory = RunDirectory.create(path).path
    return RunInfo(directory, Config.model_validate(CONFIG), "QwenImagePipeline", State())


def hooks_of(tracker: Tracker) -> Hooks:
    return Hooks(build_manager([Layer("observer", tracker, "test")]))


def sample(number: int, media: dict[str, torch.Tensor] | None) -> Sample:
    key = NoiseKey(0, "validation", 0, number, 0)
    request = Request(uid=number, sample_id=number, prompt=f"prompt {number}", key=key, initial_key=key, steps=2)
    if media is None:
        return Sample(request, error="the engine failed")
    return Sample(request, TensorDict({"media": TensorDict(media)}))


def image(number: int) -> torch.Tensor:
    return torch.full((16, 32, 3), 40 * number, dtype=torch.uint8)


SAMPLES = [
    sample(0, {"image": image(0)}),
    sample(1, {"image": image(1)}),
    sample(2, None),
    sample(3, {"video": torch.stack([image(3)] * 3)}),
    sample(4, {"image": image(4)}),
]
REWARDS = torch.tensor([0.25, 0.5, math.nan, 0.75, 1.0])
MEAN, STDERR = 0.625, float(torch.tensor([0.25, 0.5, 0.75, 1.0]).double().std()) / 2


def validation_row(iteration: int) -> dict[str, float]:
    return row(iteration) | {"val/reward/mean": MEAN, "val/reward/stderr": STDERR, "val/reward/ocr/mean": 0.5}


def row(iteration: int) -> dict[str, float]:
    return {"iteration": iteration, "reward/mean": iteration / 7, "actor/ratio_mean": 1 + iteration * 1e-5}


def drive(tracker: Tracker, run: RunInfo, first: int, last: int) -> None:
    """What a run does with its observers, validating before the first iteration and after the last."""
    hooks = hooks_of(tracker)
    hooks.on_run_start(run=run)
    if first == 1:
        hooks.on_validation(run=run, iteration=0, samples=SAMPLES, rewards=REWARDS)
    for iteration in range(first, last):
        hooks.on_iteration_end(run=run, row=row(iteration))
    hooks.on_validation(run=run, iteration=last, samples=SAMPLES, rewards=REWARDS)
    hooks.on_iteration_end(run=run, row=validation_row(last))
    hooks.on_run_end(run=run, error=None)
    tracker.close()  # a second time does no harm


def resume_and_lose_the_engine(tracker: Tracker, state: Mapping[str, Any], run: RunInfo, iteration: int) -> None:
    """What a resumed run does with its observers, if its engine fails after one more iteration."""
    tracker.restore(state)
    hooks = hooks_of(tracker)
    hooks.on_run_start(run=run)
    hooks.on_iteration_end(run=run, row=row(iteration))
    hooks.on_run_end(run=run, error=RuntimeError("engine lost"))
