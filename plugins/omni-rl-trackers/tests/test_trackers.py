"""What holds for every tracker."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from pydantic import ValidationError
from tracked_run import REWARDS, SAMPLES, hooks_of, image

from omni_rl.errors import PluginError
from omni_rl_trackers.mlflow import MLflow
from omni_rl_trackers.swanlab import SwanLab
from omni_rl_trackers.tensorboard import TensorBoard
from omni_rl_trackers.wandb import WeightsAndBiases

KINDS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "swanlab": SwanLab, "mlflow": MLflow}


@pytest.mark.parametrize("kind", KINDS.values())
def test_unknown_options_are_refused(kind):
    with pytest.raises(ValidationError, match="proyect"):
        kind.Config(proyect="x")


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, name, kind):
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself does for a module that cannot be imported
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(PluginError, match=f"tracker '{name}' needs a package that cannot be imported") as caught:
        kind(kind.Config())
    assert caught.value.hint == f"pip install 'omni-rl[{name}]'"


@pytest.mark.ci
@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_checkpoint_without_the_trackers_state_begins_anew(name, kind):
    """What a tracker that was not there, or another one in its place, has left behind."""
    pytest.importorskip(name)
    for left in ({}, {"another": "state"}):
        tracker = kind(kind.Config())
        before = tracker.state()
        tracker.restore(left)
        assert tracker.state() == before
        tracker.close()  # nothing was opened


def test_images_are_numpy_uint8():
    seen = []

    class Camera(TensorBoard):
        def log(self, row, step):
            pass

        def log_images(self, name, images, step, captions=()):
            seen.extend(zip(images, captions, strict=True))

    pytest.importorskip("tensorboard")
    hooks = hooks_of(Camera(Camera.Config()))
    hooks.on_validation(run=None, iteration=0, samples=SAMPLES, rewards=REWARDS)
    assert [caption for _, caption in seen] == ["prompt 0", "prompt 1", "prompt 3", "prompt 4"]
    assert all(np.array_equal(picture, image(int(caption[-1])).numpy()) for picture, caption in seen)
