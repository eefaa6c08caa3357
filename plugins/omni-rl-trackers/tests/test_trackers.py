from __future__ import annotations

import importlib.util
import json
import math
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from tensordict import TensorDict

from omni_rl.contracts.requests import Request
from omni_rl.contracts.schema import Config
from omni_rl.contracts.types import Sample
from omni_rl.errors import PluginError
from omni_rl.plugins.manager import Hooks, Layer, build_manager
from omni_rl.schedulers.types import NoiseKey
from omni_rl.storage.run_folder import RunDirectory
from omni_rl_trackers.trackers import TensorBoard, Tracker, WeightsAndBiases

CONFIG = {"model": {"path": "tiny"}, "algorithm": {"name": "flow_grpo"}, "reward": "ocr", "data": {"path": "p.txt"}}


def run_in(path: Path) -> SimpleNamespace:
    return SimpleNamespace(directory=RunDirectory.create(path), config=Config.model_validate(CONFIG))


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


def drive(tracker: Tracker, run: SimpleNamespace, first: int, last: int) -> None:
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


@pytest.mark.parametrize("kind", [TensorBoard, WeightsAndBiases])
def test_unknown_options_are_refused(kind):
    with pytest.raises(ValidationError, match="proyect"):
        kind.Config(proyect="x")


@pytest.mark.parametrize(
    ("kind", "package", "extra"), [(TensorBoard, "tensorboard", "tensorboard"), (WeightsAndBiases, "wandb", "wandb")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, kind, package, extra):
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does for a module that cannot be imported
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(PluginError, match=f"tracker '{extra}' needs a package that cannot be imported") as caught:
        kind(kind.Config())
    assert caught.value.hint == f"pip install 'omni-rl[{extra}]'"


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
    found = events(run.directory.path / "tensorboard")
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
    found = events(run.directory.path / "tensorboard")
    assert steps(found, "reward/mean") == pytest.approx({1: 1 / 7, 2: 2 / 7, 3: 3 / 7, 4: 4 / 7, 5: -1, 6: -1})


def wandb_records(folder: Path) -> list[object]:
    """All records of an offline run that has ended; its service writes the last ones a moment after that."""
    (file,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        records = leveldb_records(file.read_bytes())
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.2)
    raise AssertionError(f"{file} has no end")


def leveldb_records(data: bytes) -> list[object]:
    """The protobuf records in a LevelDB log of 32 kB blocks behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, parts, records = 7, b"", []
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:  # no header fits into the rest of this block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + length > len(data):  # still being written
            break
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def wandb_rows(records: list[object]) -> list[dict[str, object]]:
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return [{k: v for k, v in r.items() if not k.startswith("_")} for r in rows]


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline_run_reads_back_and_resumes_under_its_id(tmp_path):
    run = run_in(tmp_path / "run")
    tracker = WeightsAndBiases(WeightsAndBiases.Config(mode="offline", project="signs", images=2))
    drive(tracker, run, 1, 4)
    state = json.loads(json.dumps(tracker.state()))

    (folder,) = (run.directory.path / "wandb").glob("offline-run-*")
    records = wandb_records(folder)
    (start,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (start.project, start.display_name, start.run_id) == ("signs", "run", state["id"])
    config = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert config["algorithm"]["name"] == "flow_grpo"
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [0]

    rows = wandb_rows(records)
    figures = [r for r in rows if "reward/mean" in r]
    assert figures == [row(1), row(2), row(3), row(4) | {"val/reward/ocr/mean": 0.5}]
    assert [r["val/reward/mean"] for r in rows if "val/reward/mean" in r] == [MEAN, MEAN]
    galleries = [r for r in rows if "val/samples/captions" in r]
    assert [gallery["iteration"] for gallery in galleries] == [0, 4]
    assert galleries[0]["val/samples/captions"] == ["prompt 0", "prompt 1"]
    assert len(list(folder.glob("files/media/images/**/*.png"))) == 4

    resumed = WeightsAndBiases(WeightsAndBiases.Config(mode="offline", project="signs"))
    resumed.restore(state)
    hooks = hooks_of(resumed)
    hooks.on_run_start(run=run)
    hooks.on_iteration_end(run=run, row=row(3))
    hooks.on_run_end(run=run, error=RuntimeError("engine lost"))
    assert resumed.state() == state
    (later,) = set((run.directory.path / "wandb").glob("offline-run-*")) - {folder}
    records = wandb_records(later)
    assert wandb_rows(records) == [row(3)]
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [1]


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_disabled_writes_nothing(tmp_path):
    run = run_in(tmp_path / "run")
    drive(WeightsAndBiases(WeightsAndBiases.Config(mode="disabled")), run, 1, 2)
    assert sorted(entry.name for entry in run.directory.path.iterdir()) == ["checkpoints", "images"]


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
