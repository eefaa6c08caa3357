from __future__ import annotations

import json
import math
import os
import re
import struct
from pathlib import Path

import pytest

from omni_rl.errors import CheckpointError, UserError
from omni_rl.storage.run_folder import RunDirectory, default_path


def tree(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


def test_create_makes_a_folder_that_open_accepts(tmp_path):
    run = RunDirectory.create(tmp_path / "runs" / "a")
    assert tree(tmp_path) == ["runs", "runs/a", "runs/a/checkpoints", "runs/a/images"]
    run.write_config("seed: 1\n")
    again = RunDirectory.open(str(run.path))
    assert again.path == run.path
    assert again.config_file.read_text() == "seed: 1\n"
    assert again.metrics() == []


def test_create_takes_an_empty_folder_that_exists(tmp_path):
    RunDirectory(tmp_path).require_free()
    assert tree(tmp_path) == []
    assert RunDirectory.create(tmp_path).checkpoints.is_dir()


def test_create_refuses_a_folder_with_something_in_it_and_leaves_it_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError) as caught:
        RunDirectory.create(tmp_path)
    assert "--run-dir" in str(caught.value)
    assert "resume" not in str(caught.value)  # there is no run that it could continue
    assert tree(tmp_path) == ["thesis.txt"]


def test_create_refuses_a_file(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match="exists and is not empty"):
        RunDirectory.create(tmp_path / "a")


@pytest.mark.parametrize("too_long", ["x" * 300, "deep/" + "x" * 300])
def test_create_leaves_nothing_behind_when_it_fails(tmp_path, too_long):
    with pytest.raises(UserError, match=r"cannot create the run directory \(File name too long\): ") as caught:
        RunDirectory.create(tmp_path / "runs" / too_long)
    assert "--run-dir" in str(caught.value)
    assert tree(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_create_in_a_folder_that_is_not_ours(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        RunDirectory.create(tmp_path / "a")


def test_open_names_a_similar_run_when_there_is_none(tmp_path):
    RunDirectory.create(tmp_path / "tiny-20250131-142500")
    with pytest.raises(CheckpointError, match=r"no run directory .*Did you mean 'tiny-20250131-142500'"):
        RunDirectory.open(tmp_path / "tiny-20250131-142509")
    with pytest.raises(CheckpointError, match="no run directory"):
        RunDirectory.open(tmp_path / "nowhere" / "at-all")


def test_open_refuses_a_folder_that_is_not_a_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a run directory: it has no config\.resolved\.yaml"):
        RunDirectory.open(tmp_path)


def test_metrics_come_back_bit_for_bit(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e22, float("inf"), float("nan")]
    for number, value in enumerate(values, 1):
        run.append_metrics({"iteration": number, "reward/mean": value})
    read = [row["reward/mean"] for row in run.metrics()]
    assert [struct.pack("<d", value) for value in read] == [struct.pack("<d", value) for value in values]
    assert run.metrics_file.read_text().splitlines()[1] == '{"iteration": 2, "reward/mean": 0.3333333333333333}'


def test_truncate_forgets_what_came_after_the_checkpoint_and_a_torn_line(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    for number in range(1, 8):
        run.append_metrics({"iteration": number, "reward/mean": number / 7})
    before = run.metrics_file.read_bytes()
    with run.metrics_file.open("ab") as file:
        file.write(b'{"iteration": 8, "rewa')
    assert [row["iteration"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6, 7]

    run.truncate_metrics(5)
    assert run.metrics_file.read_bytes() == b"".join(before.splitlines(keepends=True)[:5])
    run.append_metrics({"iteration": 6, "reward/mean": 6 / 7})
    run.append_metrics({"iteration": 7, "reward/mean": 1.0})
    assert run.metrics_file.read_bytes() == before
    run.truncate_metrics(0)
    assert run.metrics() == []


@pytest.mark.parametrize("line", ['{"iteration": 2,,}', "[2]", '{"reward/mean": 1.0}'])
def test_a_damaged_row_is_named_by_file_and_line(tmp_path, line):
    run = RunDirectory.create(tmp_path / "run")
    run.append_metrics({"iteration": 1})
    with run.metrics_file.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CheckpointError, match=re.escape(f"{run.metrics_file}, line 2")):
        run.metrics()


def test_write_json_replaces_whole_and_leaves_no_other_file(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("gate.json", {"verdict": "old"})
    path = run.write_json("gate.json", {"verdict": "gut \u00fc", "floor": math.pi})
    assert json.loads(path.read_text("utf-8")) == {"verdict": "gut \u00fc", "floor": math.pi}
    with pytest.raises(TypeError):
        run.write_json("gate.json", {"verdict": object()})
    assert json.loads(path.read_text("utf-8"))["floor"] == math.pi
    assert tree(run.path) == ["checkpoints", "gate.json", "images"]


def test_default_path_names_the_configuration_and_the_second():
    assert re.fullmatch(r"runs/tiny-20\d{6}-\d{6}", str(default_path("tiny")))


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": "1"}',
        '{"iteration": true}',
        '{"iteration": 1, "loss": "0"}',
        '{"loss": 1}',
        "[1]",
        '{"a": 1',
        "\\xff",
    ],
)
def test_a_line_that_is_no_row_of_metrics_is_refused(tmp_path, line):
    run = RunDirectory.create(tmp_path / "run")
    run.metrics_file.write_bytes(line.encode().replace(b"\\xff", b"\xff") + b"\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 1"):
        run.metrics()


@pytest.mark.parametrize("name", ["metrics.jsonl", "report.html", "images/before_after.png", "checkpoints/latest.json"])
def test_a_folder_in_place_of_a_file_is_found_before_the_run_goes_on(tmp_path, name):
    run = RunDirectory.create(tmp_path / "run")
    run.check()
    (run.path / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is a folder"):
        run.check()


def test_a_file_in_place_of_a_folder_is_found_too(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.images.rmdir()
    run.images.write_text("")
    with pytest.raises(CheckpointError, match="images is a file"):
        run.check()
