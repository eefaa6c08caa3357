from __future__ import annotations

import importlib.util
import json
import struct
import time
from pathlib import Path

import pytest
from tracked_run import MEAN, drive, resume_and_lose_the_engine, row, run_in

from omni_rl_trackers.wandb import WeightsAndBiases


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

    (folder,) = (run.directory / "wandb").glob("offline-run-*")
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
    resume_and_lose_the_engine(resumed, state, run, iteration=3)
    assert resumed.state() == state
    (later,) = set((run.directory / "wandb").glob("offline-run-*")) - {folder}
    records = wandb_records(later)
    assert wandb_rows(records) == [row(3)]
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [1]


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_disabled_writes_nothing(tmp_path):
    run = run_in(tmp_path / "run")
    drive(WeightsAndBiases(WeightsAndBiases.Config(mode="disabled")), run, 1, 2)
    assert sorted(entry.name for entry in run.directory.iterdir()) == ["checkpoints", "images"]
