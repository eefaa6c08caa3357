from __future__ import annotations

import importlib.util
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tracked_run import MEAN, drive, image, resume_and_lose_the_engine, run_in

from omni_rl.errors import PluginError
from omni_rl_trackers.swanlab import SwanLab

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(importlib.util.find_spec("swanlab") is None, reason="swanlab is not installed"),
]


def records(folder: Path) -> list[object]:
    """What an offline run has written, as `swanlab sync` reads it."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    (file,) = folder.glob("*.swanlab")
    reader, found = DataStoreReader(), []
    reader.open(file)
    while (data := reader.scan()) is not None:
        found.append(Record.FromString(data))
    reader.close()
    return found


def of(found: list[object], kind: str) -> list[object]:
    return [getattr(record, kind) for record in found if record.HasField(kind)]


def scalars(found: list[object], key: str) -> dict[int, float]:
    return {scalar.step: scalar.value.number for scalar in of(found, "scalar") if scalar.key == key}


def test_an_offline_run_reads_back_and_resumes_under_its_id(tmp_path):
    run = run_in(tmp_path / "run")
    tracker = SwanLab(SwanLab.Config(mode="offline", project="signs", images=2))
    drive(tracker, run, 1, 4)
    state = json.loads(json.dumps(tracker.state()))

    (folder,) = (run.directory / "swanlab").glob("run-*")
    found = records(folder)
    (start,) = of(found, "start")
    assert (start.project, start.name, start.id) == ("signs", "run", state["swanlab"])
    config = yaml.safe_load((folder / "files/config.yaml").read_text())
    assert config["algorithm"]["value"]["name"] == "flow_grpo"
    assert scalars(found, "reward/mean") == pytest.approx({i: i / 7 for i in range(1, 5)})
    assert scalars(found, "val/reward/mean") == pytest.approx({0: MEAN, 4: MEAN})
    assert scalars(found, "val/reward/ocr/mean") == {4: 0.5}
    assert not [scalar for scalar in of(found, "scalar") if scalar.key == "iteration"]
    galleries = {media.step: media.value.items for media in of(found, "media")}
    assert sorted(galleries) == [0, 4]
    assert [item.caption for item in galleries[0]] == ["prompt 0", "prompt 1"]
    for number, item in enumerate(galleries[0]):
        (file,) = folder.glob(f"media/**/{item.filename}")
        assert np.array_equal(np.asarray(Image.open(file)), image(number).numpy())
    assert of(found, "log") == []  # what the run prints is not tracked
    (finish,) = of(found, "finish")
    assert not finish.error

    resumed = SwanLab(SwanLab.Config(mode="offline", project="signs"))
    resume_and_lose_the_engine(resumed, state, run, iteration=3)
    assert resumed.state() == state
    (later,) = set((run.directory / "swanlab").glob("run-*")) - {folder}
    found = records(later)
    assert of(found, "start")[0].id == state["swanlab"]
    assert scalars(found, "reward/mean") == pytest.approx({3: 3 / 7})
    assert of(found, "finish")[0].error == "the run failed"
    assert of(found, "finish")[0].state != finish.state


def test_disabled_writes_nothing(tmp_path):
    run = run_in(tmp_path / "run")
    drive(SwanLab(SwanLab.Config(mode="disabled")), run, 1, 2)
    assert sorted(entry.name for entry in run.directory.iterdir()) == ["checkpoints", "images"]


def test_ctrl_c_keeps_its_meaning(tmp_path):
    """SwanLab would end its run at once; omni-rl finishes the iteration and saves."""
    before = signal.getsignal(signal.SIGINT)

    def finish_the_iteration(*_: object) -> None: ...

    tracker = SwanLab(SwanLab.Config(mode="offline"))
    try:
        tracker.open(tmp_path, {})
        assert signal.getsignal(signal.SIGINT) is before
        signal.signal(signal.SIGINT, finish_the_iteration)  # set after the tracker was opened
        tracker.log({"reward/mean": 0.5}, 1)
        tracker.close()
        assert signal.getsignal(signal.SIGINT) is finish_the_iteration
    finally:
        signal.signal(signal.SIGINT, before)


def test_local_mode_needs_the_dashboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "swanboard", None)
    with pytest.raises(PluginError, match="tracker 'swanlab' needs a package that cannot be imported") as caught:
        SwanLab(SwanLab.Config(mode="local"))
    assert caught.value.hint == "pip install 'swanlab[dashboard]'"


def test_images_without_captions_are_logged(tmp_path):
    tracker = SwanLab(SwanLab.Config(mode="offline"))
    tracker.open(tmp_path, {})
    tracker.log_images("val/samples", [image(1).numpy()], 2)
    tracker.close()
    (folder,) = (tmp_path / "swanlab").glob("run-*")
    (media,) = of(records(folder), "media")
    assert (media.key, media.step, len(media.value.items)) == ("val/samples", 2, 1)
