from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tracked_run import MEAN, STDERR, drive, hooks_of, run_in

from omni_rl_trackers.tensorboard import TensorBoard


def events(folder: Path) -> object:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    found.Reload()
    return found


def steps(found: object, tag: str) -> dict[int, float]:
    scalars = found.Scalars(tag)
    assert len({s.step for s in scalars}) == len(scalars)  # nothing is logged twice
    return {s.step: s.value for s in scalars}


@pytest.mark.ci
def test_tensorboard_events_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    tracker = TensorBoard(TensorBoard.Config(images=3))
    run = run_in(tmp_path / "run")
    drive(tracker, run, 1, 5)
    found = events(run.directory / "tensorboard")
    assert steps(found, "reward/mean") == pytest.approx({i: i / 7 for i in range(1, 6)})
    assert steps(found, "actor/ratio_mean") == pytest.approx({i: 1 + i * 1e-5 for i in range(1, 6)})
    assert steps(found, "val/reward/mean") == pytest.approx({0: MEAN, 5: MEAN})
    assert steps(found, "val/reward/stderr") == pytest.approx({0: STDERR, 5: STDERR})
    assert steps(found, "val/reward/ocr/mean") == {5: 0.5}
    assert "iteration" not in found.Tags()["scalars"]
    pictures = found.Images("val/samples")
    assert [picture.step for picture in pictures] == [0, 5]
    assert pictures[0].width > 3 * 128  # three of 32 x 16 pixels, four times enlarged, side by side
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text.removeprefix("```yaml\n").removesuffix("```")) == run.config.model_dump(mode="json")


@pytest.mark.ci
def test_tensorboard_forgets_the_future_that_a_resumed_run_abandons(tmp_path):
    pytest.importorskip("tensorboard")
    run = run_in(tmp_path / "run")
    drive(TensorBoard(TensorBoard.Config()), run, 1, 8)
    resumed = TensorBoard(TensorBoard.Config())
    resumed.restore(json.loads(json.dumps(TensorBoard(TensorBoard.Config()).state())))
    hooks = hooks_of(resumed)
    hooks.on_run_start(run=run)
    for iteration in (5, 6):
        hooks.on_iteration_end(run=run, row={"iteration": iteration, "reward/mean": -1.0})
    hooks.on_run_end(run=run, error=KeyboardInterrupt())
    found = events(run.directory / "tensorboard")
    assert steps(found, "reward/mean") == pytest.approx({1: 1 / 7, 2: 2 / 7, 3: 3 / 7, 4: 4 / 7, 5: -1, 6: -1})
