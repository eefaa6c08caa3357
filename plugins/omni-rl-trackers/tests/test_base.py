"""What the base of trackers makes of a run's hooks."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from tensordict import TensorDict

from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.contracts.types import Sample
from omni_rl.plugins.manager import Hooks, Layer, build_manager
from omni_rl.schedulers.types import NoiseKey
from omni_rl_trackers.base import Tracker

CONFIG = Config.model_validate(
    {"model": {"path": "tiny"}, "algorithm": {"name": "flow_grpo"}, "reward": "ocr", "data": {"path": "p.txt"}}
)


class Notebook(Tracker):
    """Writes down what it is told."""

    class Config(BaseModel):
        images: int = 2

    def __init__(self, config):
        super().__init__(config)
        self.notes = []

    def open(self, directory, config):
        self.notes.append(("open", directory, config))

    def log(self, row, step):
        self.notes.append(("log", row, step))

    def log_images(self, name, images, step, captions=()):
        self.notes.append(("images", name, step, list(captions)))
        self.images = images

    def state(self):
        return {}

    def restore(self, state): ...

    def close(self, failed=False):
        self.notes.append(("close", failed))


@pytest.fixture
def notebook():
    return Notebook(Notebook.Config())


@pytest.fixture
def hooks(notebook):
    return Hooks(build_manager([Layer("observer", notebook, "test")]))


def sample(number, **media):
    key = NoiseKey(0, "validation", 0, number, 0)
    request = Request(uid=number, sample_id=number, prompt=f"prompt {number}", key=key, initial_key=key, steps=2)
    return Sample(request, TensorDict({"media": TensorDict(media)}) if media else None)


def image(number):
    return torch.full((8, 8, 3), number, dtype=torch.uint8)


def test_it_is_opened_with_the_run_directory_and_the_configuration_as_json(hooks, notebook, tmp_path):
    hooks.on_run_start(run=SimpleNamespace(directory=tmp_path, config=CONFIG))
    ((_, directory, config),) = notebook.notes
    assert directory == Path(tmp_path)
    assert Config.model_validate(config) == CONFIG


def test_a_row_is_logged_under_its_iteration_without_what_the_validation_has_logged(hooks, notebook):
    row = {"iteration": 3, "reward/mean": 0.5, "val/reward/mean": 1, "val/reward/stderr": 1, "val/reward/ocr/mean": 0.2}
    hooks.on_iteration_end(run=None, row=row)
    assert notebook.notes == [("log", {"reward/mean": 0.5, "val/reward/ocr/mean": 0.2}, 3)]


def test_a_validation_logs_figures_and_the_first_images_that_there_are(hooks, notebook):
    video = torch.stack([image(4), image(5), image(6)])
    samples = [sample(0), sample(1, video=video), sample(2, image=image(2)), sample(3, image=image(3))]
    hooks.on_validation(run=None, iteration=7, samples=samples, rewards=torch.tensor([math.nan, 0.0, 1.0, math.nan]))
    assert notebook.notes == [
        ("log", {"val/reward/mean": 0.5, "val/reward/stderr": pytest.approx(0.5)}, 7),
        ("images", "val/samples", 7, ["prompt 1", "prompt 2"]),
    ]
    assert np.array_equal(notebook.images[0], image(5).numpy())  # a video's middle frame


def test_a_validation_without_images_logs_none(hooks, notebook):
    hooks.on_validation(run=None, iteration=0, samples=[sample(0)], rewards=torch.tensor([math.nan]))
    assert notebook.notes == [("log", {}, 0)]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_the_end_of_a_run_closes_it(hooks, notebook, error):
    hooks.on_run_end(run=None, error=error)
    assert notebook.notes == [("close", error is not None)]
