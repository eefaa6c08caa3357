from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

from omni_rl.errors import CheckpointError, RunError
from omni_rl.storage import checkpoint, checkpoint_sheet, tensor_files
from omni_rl.storage.run_folder import RunDirectory


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


def tensors_of(iteration: int, numbers: int = 1000) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(iteration)
    return {
        "policy/block.0.weight": torch.randn(numbers, generator=generator),
        "optimizer/block.0.weight/step": torch.tensor(float(iteration)),
    }


def state_of(iteration: int) -> dict[str, object]:
    return {
        "iteration": iteration,
        "policy_version": iteration,
        "architecture": "TinyPipeline",
        "model_fingerprint": "f" * 64,
        "data": {"epoch": 1, "position": 3 * iteration},
        "algorithm": {"beta": 0.1 + 0.2},
    }


def names(run: RunDirectory) -> list[str]:
    return sorted(entry.name for entry in run.checkpoints.iterdir())


def flip_byte(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_everything_comes_back_bit_for_bit(run):
    groups = {
        "policy": {"a.weight": torch.randn(3, 5), "half": torch.randn(4).to(torch.bfloat16)},
        "optimizer": {"a.weight/exp_avg": torch.randn(3, 5).double(), "a.weight/step": torch.tensor(7)},
        "ema": {},
    }
    path = checkpoint.save(run, checkpoint.flatten(groups), state_of(41), keep=2)
    assert path == run.checkpoints / "iteration-000041"
    assert names(run) == ["iteration-000041", "latest.json"]
    assert checkpoint.latest(run) == path

    tensors, state = checkpoint.load(path)
    assert state == state_of(41)
    for group, members in groups.items():
        back = {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}
        assert back.keys() == members.keys()
        for name, tensor in members.items():
            assert back[name].dtype == tensor.dtype
            assert torch.equal(back[name], tensor)


def test_any_safetensors_reader_reads_the_tensors(run):
    path = checkpoint.save(run, tensors_of(1), state_of(1), keep=1)
    with safetensors.safe_open(path / "tensors.safetensors", "pt") as file:
        assert set(file.keys()) == tensors_of(1).keys()


def test_tied_strided_and_trainable_tensors_are_stored_by_value(run):
    weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    path = checkpoint.save(run, {"a": weight, "b": weight, "t": weight.T, "v": weight[1:]}, state_of(1), keep=1)
    tensors, _ = checkpoint.load(path)
    expected = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(tensors["a"], expected)
    assert torch.equal(tensors["b"], expected)
    assert torch.equal(tensors["t"], expected.T)
    assert torch.equal(tensors["v"], expected[1:])


def test_only_the_last_are_kept(run):
    for iteration in (5, 10, 15, 20):
        checkpoint.save(run, tensors_of(iteration), state_of(iteration), keep=2)
    assert names(run) == ["iteration-000015", "iteration-000020", "latest.json"]
    checkpoint.save(run, tensors_of(25), state_of(25), keep=1)
    assert names(run) == ["iteration-000025", "latest.json"]


def test_the_order_is_numeric_beyond_six_digits(run):
    for iteration in (999_999, 1_000_000):
        checkpoint.save(run, tensors_of(1), state_of(iteration), keep=1)
    assert names(run) == ["iteration-1000000", "latest.json"]


def test_a_run_resumed_from_an_earlier_checkpoint_replaces_the_later_ones(run):
    for iteration in (5, 10):
        checkpoint.save(run, tensors_of(iteration), state_of(iteration), keep=2)
    checkpoint.save(run, tensors_of(6), state_of(6), keep=1)  # resumed from 5, say because 10 was damaged
    assert names(run) == ["iteration-000006", "iteration-000010", "latest.json"]
    assert checkpoint.latest(run) == run.checkpoints / "iteration-000006"
    path = checkpoint.save(run, tensors_of(11), state_of(10), keep=1)
    assert names(run) == ["iteration-000010", "latest.json"]
    assert torch.equal(checkpoint.load(path)[0]["policy/block.0.weight"], tensors_of(11)["policy/block.0.weight"])


def test_latest_without_a_usable_pointer_is_the_newest_folder(run):
    assert checkpoint.latest(run) is None
    for iteration in (5, 10):
        checkpoint.save(run, tensors_of(iteration), state_of(iteration), keep=2)
    for text in ("", "[]", '{"checkpoint": 3}', '{"checkpoint": "iteration-000099"}', '{"checkpoint": "../.."}'):
        (run.checkpoints / "latest.json").write_text(text)
        assert checkpoint.latest(run) == run.checkpoints / "iteration-000010"
    shutil.rmtree(run.checkpoints)
    assert checkpoint.latest(run) is None


def truncate(folder: Path) -> None:
    file = folder / "tensors.safetensors"
    os.truncate(file, file.stat().st_size - 1)


DAMAGE = {
    "a flipped bit in a tensor": (lambda folder: flip_byte(folder / "tensors.safetensors", -3), "safetensors"),
    "a flipped bit in the header": (lambda folder: flip_byte(folder / "tensors.safetensors", 20), "safetensors"),
    "truncated tensors": (truncate, r"tensors.safetensors has \d+ bytes instead of \d+"),
    "no tensors": (lambda folder: (folder / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
    "no state": (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    "truncated state": (lambda folder: os.truncate(folder / "state.json", 100), "state.json is damaged"),
    "a changed digit": (
        lambda folder: (folder / "state.json").write_text(
            (folder / "state.json").read_text().replace('"position": 30', '"position": 31')
        ),
        "state.json is damaged: its content does not match",
    ),
    "another JSON": (lambda folder: (folder / "state.json").write_text('["state"]'), "state.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_previous_checkpoint_offered(run, damage):
    for iteration in (5, 10):
        checkpoint.save(run, tensors_of(iteration), state_of(iteration), keep=2)
    break_it, message = DAMAGE[damage]
    break_it(run.checkpoints / "iteration-000010")
    latest = checkpoint.latest(run)
    assert latest == run.checkpoints / "iteration-000010"
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(latest)
    previous = run.checkpoints / "iteration-000005"
    assert caught.value.hint == (
        f"iteration-000005 is intact; to continue from it: rm -r {latest} && omni-rl resume {run.path}"
    )
    assert checkpoint.load(previous)[1] == state_of(5)

    truncate(previous)
    with pytest.raises(CheckpointError, match=r"no intact earlier checkpoint .*rm -r .* && omni-rl resume"):
        checkpoint.load(latest)


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        checkpoint.load(tmp_path / "nowhere" / "iteration-000001")


def test_a_newer_schema_is_not_called_damage(run):
    path = checkpoint.save(run, tensors_of(1), state_of(1), keep=1)
    sheet = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(sheet | {"schema": checkpoint_sheet.SCHEMA + 1}))
    with pytest.raises(CheckpointError, match="schema 3; this omni-rl reads schema 2") as caught:
        checkpoint.load(path)
    assert "version of omni-rl" in str(caught.value.hint)


def test_a_checkpoint_of_schema_1_is_read(run):
    """There, the sheet has the entry of the only file itself."""
    path = checkpoint.save(run, tensors_of(1), state_of(1), keep=1)
    sheet = json.loads((path / "state.json").read_text())
    sheet |= {"schema": 1, "tensors": sheet["tensors"]["tensors.safetensors"]}
    (path / "state.json").write_text(json.dumps(sheet))
    tensors, state = checkpoint.load(path)
    assert state == state_of(1)
    assert all(torch.equal(tensors[name], value) for name, value in tensors_of(1).items())


def test_another_model_is_refused(run):
    path = checkpoint.save(run, tensors_of(1), state_of(1), keep=1)
    checkpoint.load(path, architecture="TinyPipeline", model_fingerprint="f" * 64)
    with pytest.raises(CheckpointError, match="its architecture is TinyPipeline, this run's is OtherPipeline"):
        checkpoint.load(path, architecture="OtherPipeline")
    with pytest.raises(CheckpointError, match="its model fingerprint is fff"):
        checkpoint.load(path, architecture="TinyPipeline", model_fingerprint="0" * 64)


def model_folder(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    (path / "transformer").mkdir(parents=True)
    (path / "model_index.json").write_text('{"_class_name": "TinyPipeline"}')
    (path / "transformer" / "config.json").write_text('{"num_layers": 2}')
    weights = {"w": torch.randn(300, 400), "v": torch.randn(10)}
    safetensors.torch.save_file(weights, path / "transformer" / "diffusion_pytorch_model.safetensors")
    return path


def test_the_fingerprint_names_a_model_wherever_it_lies(tmp_path):
    first = checkpoint.fingerprint(model_folder(tmp_path / "a"))
    (tmp_path / "a" / "README.md").write_text("how it was made")
    assert checkpoint.fingerprint(tmp_path / "a") == first
    assert checkpoint.fingerprint(model_folder(tmp_path / "elsewhere" / "b")) == first


def test_the_fingerprint_tells_models_apart(tmp_path):
    found = {checkpoint.fingerprint(model_folder(tmp_path / "a"))}
    found.add(checkpoint.fingerprint(model_folder(tmp_path / "weights", seed=1)))
    renamed = model_folder(tmp_path / "renamed")
    os.rename(renamed / "transformer", renamed / "denoiser")
    found.add(checkpoint.fingerprint(renamed))
    (tmp_path / "a" / "transformer" / "config.json").write_text('{"num_layers": 3}')
    found.add(checkpoint.fingerprint(tmp_path / "a"))
    weights = {"w": torch.zeros(300, 400), "v": torch.zeros(5, 2)}
    for name in ("shape", "tail"):
        folder = model_folder(tmp_path / name)
        safetensors.torch.save_file(weights, folder / "transformer" / "diffusion_pytorch_model.safetensors")
        found.add(checkpoint.fingerprint(folder))
        weights["w"][-1, -1] = 1
    assert len(found) == 6


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB of its own; only root can mount one."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a small file system here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def append_rows(run: RunDirectory, count: int) -> None:
    for number in range(count):
        run.append_metrics({"iteration": 6 + number, "reward/mean": 1 / (1 + number)})


@pytest.mark.ci
def test_a_full_disk_leaves_the_previous_checkpoint(small_disk):
    run = RunDirectory.create(small_disk / "run")
    previous = checkpoint.save(run, tensors_of(5, 200_000), state_of(5), keep=2)  # 0.8 MB
    run.append_metrics({"iteration": 5})
    with pytest.raises(RunError) as caught:
        checkpoint.save(run, tensors_of(10, 400_000), state_of(10), keep=2)  # 1.6 MB
    message = str(caught.value)
    assert f"cannot write {run.checkpoints / 'iteration-000010'}: No space left on device" in message
    assert "it needs 1.6 MB (1600004 bytes) and 1.3 MB are free" in message
    assert names(run) == ["iteration-000005", "latest.json"]
    assert checkpoint.latest(run) == previous
    assert checkpoint.load(previous)[1] == state_of(5)

    (small_disk / "filler").write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    with pytest.raises(RunError, match=r"cannot write .*metrics\.jsonl: No space left"):
        append_rows(run, 2000)
    with pytest.raises(RunError, match=r"cannot write .*gate\.json: No space left"):
        run.write_json("gate.json", ["row"] * 10_000)
    assert sorted(entry.name for entry in run.path.iterdir()) == ["checkpoints", "images", "metrics.jsonl"]
    run.metrics()  # whatever line was cut off does not count

    (small_disk / "filler").unlink()
    path = checkpoint.save(run, tensors_of(10), state_of(10), keep=1)
    assert checkpoint.latest(run) == path


@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
def test_a_full_disk_at_any_call_leaves_the_previous_checkpoint(run, monkeypatch, call):
    previous = checkpoint.save(run, tensors_of(5), state_of(5), keep=2)

    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"cannot write .*iteration-000010: No space left on device"):
        checkpoint.save(run, tensors_of(10), state_of(10), keep=2)
    monkeypatch.undo()
    assert names(run) == ["iteration-000005", "latest.json"]
    assert checkpoint.latest(run) == previous
    checkpoint.load(previous)


def rehashed(path: Path, **changes: object) -> None:
    """Change a checkpoint's state, with a hash that fits."""
    sheet = json.loads((path / "state.json").read_text())
    sheet["state"].update(changes)
    sheet["state_sha256"] = checkpoint_sheet._state_sha256(sheet["state"])
    (path / "state.json").write_text(json.dumps(sheet))


@pytest.mark.parametrize("key", ["iteration", "policy_version", "architecture", "model_fingerprint"])
@pytest.mark.parametrize("value", ["2", -1, None, True, [1], {}])
def test_a_state_has_the_types_that_a_run_writes(run, key, value):
    """Also if its hash fits: a file that somebody edited is refused, instead of failing later."""
    path = checkpoint.save(run, tensors_of(2), state_of(2), keep=2)
    assert checkpoint.load_state(path)["iteration"] == 2
    rehashed(path, **{key: value})
    if isinstance(value, str) and key in ("architecture", "model_fingerprint"):
        assert checkpoint.load_state(path)[key] == value
    else:
        with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
            checkpoint.load_state(path)


@pytest.mark.parametrize("key", ["run", "config", "provenance", "row", "backend", "source", "trackers"])
def test_optional_keys_have_their_types_too(run, key):
    path = checkpoint.save(run, tensors_of(2), state_of(2), keep=2)
    rehashed(path, **{key: 7})
    with pytest.raises(CheckpointError, match=f"{key} is missing or of the wrong type"):
        checkpoint.load_state(path)


def test_a_renamed_checkpoint_is_no_later_one(run):
    path = checkpoint.save(run, tensors_of(2), state_of(2), keep=2)
    later = path.rename(path.with_name("iteration-000009"))
    with pytest.raises(CheckpointError, match="has the checkpoint of iteration 2"):
        checkpoint.load_state(later)


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
def test_a_checkpoint_consists_of_regular_files(run, name, kind):
    """Who reads a named pipe waits for ever."""
    file = checkpoint.save(run, tensors_of(2), state_of(2), keep=2) / name
    file.unlink()
    {
        "pipe": lambda: os.mkfifo(file),
        "folder": file.mkdir,
        "loop": lambda: file.symlink_to(file),
        "device": lambda: file.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load_state(file.parent)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"[1]", b'{"checkpoint": 7}', b'{"checkpoint": "../x"}'])
def test_a_damaged_pointer_is_not_needed(run, content):
    path = checkpoint.save(run, tensors_of(2), state_of(2), keep=2)
    (run.checkpoints / "latest.json").write_bytes(content)
    assert checkpoint.latest(run) == path
    (run.checkpoints / "latest.json").unlink()
    os.mkfifo(run.checkpoints / "latest.json")
    assert checkpoint.latest(run) == path


def test_tensors_that_cannot_be_read_although_their_hash_fits(run):
    path = checkpoint.save(run, tensors_of(2), state_of(2), keep=2)
    file = path / "tensors.safetensors"
    file.write_bytes((1 << 62).to_bytes(8, "little") + file.read_bytes()[8:])
    sheet = json.loads((path / "state.json").read_text())
    sheet["tensors"][file.name]["sha256"] = tensor_files.sha256(file)
    (path / "state.json").write_text(json.dumps(sheet))
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors is damaged"):
        checkpoint.load(path)
