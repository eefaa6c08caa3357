"""A run that was interrupted, killed or extended ends exactly where an uninterrupted one does."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from omni_rl import resume, train
from omni_rl.storage.run_folder import RunDirectory

pytestmark = pytest.mark.ci

ITERATIONS = 6
KINDS = {
    "full": ["train.ema.decay=0.9"],
    "lora": ["model.lora.rank=4", "train.ema.decay=0.9", "algorithm.kl_beta=0.01"],
}

# Long enough for a signal to arrive between two iterations.
SLOW = """
import time


def score(batch):
    time.sleep(0.2)
    return [float(media["image"].data.mean()) / 255 for media in batch.media]
"""

Figures = Callable[[Path], list[dict[str, float]]]
Weights = Callable[..., dict[str, torch.Tensor]]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_continued_run_equals_an_uninterrupted_one(
    recipe: dict[str, Any], tmp_path: Path, figures: Figures, weights: Weights, kind: str
) -> None:
    """A finished run is extended: policy, average, optimizer and metrics end the same to the bit."""
    settings = [*KINDS[kind], "validation.every=2", "train.warmup=3", "train.inner_epochs=2"]
    train(recipe, [*settings, "train.iterations=4"], tmp_path / "straight")
    train(recipe, [*settings, "train.iterations=2"], tmp_path / "extended")
    run = resume(tmp_path / "extended", ["train.iterations=4"])
    assert run.state.iteration == 4
    assert figures(tmp_path / "extended") == figures(tmp_path / "straight")
    assert_equal(weights(tmp_path / "extended"), weights(tmp_path / "straight"))
    assert any(name.startswith("ema/") for name in weights(tmp_path / "straight"))
    texts = [(tmp_path / name / "validation.jsonl").read_text() for name in ("extended", "straight")]
    assert texts[0] == texts[1]


def test_the_old_policy_goes_on_where_it_was(
    recipe: dict[str, Any], tmp_path: Path, figures: Figures, weights: Weights
) -> None:
    """A peer's resume copies the trained weights over it, and loses what it had become."""
    recipe["algorithm"] = {"name": "diffusion_nft", "decay": "linear_to_0_5", "beta": 1.0}
    settings = ["validation.every=2"]
    train(recipe, [*settings, "train.iterations=4"], tmp_path / "straight")
    train(recipe, [*settings, "train.iterations=2"], tmp_path / "extended")
    halfway = weights(tmp_path / "extended")
    resume(tmp_path / "extended", ["train.iterations=4"])
    assert figures(tmp_path / "extended") == figures(tmp_path / "straight")
    assert_equal(weights(tmp_path / "extended"), weights(tmp_path / "straight"))
    names = [name.removeprefix("old/") for name in halfway if name.startswith("old/")]
    assert any(not torch.equal(halfway[f"old/{name}"], halfway[f"policy/{name}"]) for name in names)


def test_a_finished_run_is_left_as_it_is(
    recipe: dict[str, Any], tmp_path: Path, figures: Figures, weights: Weights
) -> None:
    """Only its report is written again."""
    train(recipe, ["train.iterations=1"], tmp_path / "run")
    rows, tensors = figures(tmp_path / "run"), weights(tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    resume(tmp_path / "run")
    assert figures(tmp_path / "run") == rows
    assert_equal(weights(tmp_path / "run"), tensors)
    assert (tmp_path / "run/report.html").is_file()


@pytest.fixture
def slow_file(config_file: Callable[..., Path], tmp_path: Path) -> Path:
    """A run of six iterations, saved after each, with every checkpoint kept."""
    (tmp_path / "slow.py").write_text(SLOW)
    return config_file(
        model={"lora": {"rank": 4}},
        reward=[{"name": "python", "file": str(tmp_path / "slow.py")}],
        train={"iterations": ITERATIONS, "checkpoint_every": 1, "keep_checkpoints": 9, "ema": {}},
    )


@pytest.fixture
def started(slow_file: Path, command: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The slow run as a process, in the middle of it: two iterations or more are complete."""
    run = subprocess.Popen(
        [command, "train", str(slow_file), "--run-dir", "run"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        until(lambda: (tmp_path / "run/checkpoints/iteration-000002").exists() or run.poll() is not None)
        assert run.poll() is None, run.communicate()[0]
        yield run
    finally:
        run.kill()
        run.communicate()


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def continued(spawn: Callable[..., Any], tmp_path: Path, *overrides: str) -> None:
    done = spawn("resume", "run", *overrides)
    assert done.code == 0, done.err
    assert "continuing after iteration" in done.out


def test_ctrl_c_finishes_the_iteration_and_saves(
    started: subprocess.Popen[str],
    slow_file: Path,
    spawn: Callable[..., Any],
    tmp_path: Path,
    figures: Figures,
    weights: Weights,
) -> None:
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=300)[0]
    assert started.returncode == 130
    done = figures(tmp_path / "run")[-1]["iteration"]
    assert done < ITERATIONS
    assert f"stopped after iteration {done}; continue with: omni-rl resume run" in said
    assert "Traceback" not in said
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "run", int(done)))
    continued(spawn, tmp_path)
    assert_same_as_undisturbed(slow_file, spawn, tmp_path, figures, weights)


@pytest.mark.full  # ci: samples of tests/attack
def test_a_second_ctrl_c_stops_at_once(started: subprocess.Popen[str], spawn: Callable[..., Any]) -> None:
    assert started.stdout is not None
    started.send_signal(signal.SIGINT)
    while "Ctrl-C again" not in (line := started.stdout.readline()):
        assert line, "the process ended"
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=300)[0]
    assert started.returncode == 130
    assert "Traceback" not in said
    done = spawn("resume", "run", "train.iterations=3")
    assert done.code == 0, done.err


@pytest.mark.full  # ci: samples of tests/attack
def test_a_killed_run_loses_its_current_iteration_only(
    started: subprocess.Popen[str],
    slow_file: Path,
    spawn: Callable[..., Any],
    tmp_path: Path,
    figures: Figures,
    weights: Weights,
) -> None:
    started.kill()
    started.wait(timeout=60)
    saved = len(list((tmp_path / "run/checkpoints").glob("iteration-*")))
    assert len(figures(tmp_path / "run")) - saved in (0, 1)
    continued(spawn, tmp_path)
    assert_same_as_undisturbed(slow_file, spawn, tmp_path, figures, weights)


def assert_same_as_undisturbed(
    slow_file: Path, spawn: Callable[..., Any], tmp_path: Path, figures: Figures, weights: Weights
) -> None:
    done = spawn("train", slow_file, "--run-dir", "undisturbed")
    assert done.code == 0, done.err
    assert len(figures(tmp_path / "undisturbed")) == ITERATIONS
    assert figures(tmp_path / "run") == figures(tmp_path / "undisturbed")
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))


@pytest.mark.full  # ci: samples of tests/attack
def test_a_full_disk_keeps_the_previous_checkpoint(
    spawn: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path, figures: Figures, weights: Weights
) -> None:
    """Room for two checkpoints of 4 MB and not for a third; what is left can be continued elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=10m tmpfs {disk}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    file = config_file(train={"iterations": 4, "checkpoint_every": 1, "keep_checkpoints": 9})
    script = f'{mount} && "$@"; code=$?; cp -r {disk}/run {tmp_path}/copy; exit $code'
    done = spawn("train", file, "--run-dir", disk / "run", before=("unshare", "-Urm", "sh", "-c", script, "sh"))
    assert done.code == 1
    assert_one_screen(done.err, "No space left on device", "MB", "are free", "omni-rl resume")
    assert sorted(path.name for path in (tmp_path / "copy/checkpoints").iterdir()) == [
        "iteration-000001",
        "iteration-000002",
        "latest.json",
    ]
    done = spawn("resume", "copy")
    assert done.code == 0, done.err
    done = spawn("train", file, "--run-dir", "undisturbed")
    assert figures(tmp_path / "copy") == figures(tmp_path / "undisturbed")
    assert_equal(weights(tmp_path / "copy"), weights(tmp_path / "undisturbed"))


def assert_one_screen(text: str, *words: str) -> None:
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 15, text
    assert [word for word in words if word not in text] == [], text


@pytest.fixture
def finished(recipe: dict[str, Any], tmp_path: Path) -> Path:
    """A run of two iterations with a checkpoint of each."""
    train(recipe, ["train.iterations=2", "train.checkpoint_every=1"], tmp_path / "run")
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("verb", ["resume", "sample"])
def test_a_damaged_checkpoint_is_refused(finished: Path, call: Callable[..., Any], tmp_path: Path, verb: str) -> None:
    for name, damage in product(("tensors.safetensors", "state.json"), (flip_a_byte, cut_in_half, Path.unlink)):
        folder = tmp_path / f"{name}-{damage.__name__}"
        shutil.copytree(finished, folder)
        damage(folder / "checkpoints/iteration-000002" / name)
        before = files(folder)
        done = call(verb, folder, "a card" if verb == "sample" else "train.iterations=3")
        assert done.code == 2
        assert_one_screen(done.err, name, "iteration-000001 is intact; to continue from it: rm -r")
        assert files(folder) == before


def test_the_hint_about_a_damaged_checkpoint_is_the_way_on(
    finished: Path, call: Callable[..., Any], tmp_path: Path, figures: Callable[..., Any]
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    cut_in_half(folder / "checkpoints/iteration-000002/state.json")
    hint = call("resume", folder).err.splitlines()[-1].partition("to continue from it: ")[2]
    remove, _, again = hint.partition(" && omni-rl ")
    shutil.rmtree(remove.removeprefix("rm -r "))
    done = call(*again.split())
    assert done.code == 0, done.err
    assert figures(folder) == figures(finished)


def other_weights(folder: Path) -> Sequence[str]:
    from omni_rl_tiny import build_random

    build_random(folder, seed=1)
    return [f"model.path={folder}"]


def other_adapters(folder: Path) -> Sequence[str]:
    return ["model.lora.rank=4"]


@pytest.mark.parametrize(
    ("change", "says"), [(other_weights, ["belongs to another model", "set model.path"]), (other_adapters, ["lora"])]
)
def test_a_checkpoint_of_another_model_is_refused(
    finished: Path,
    call: Callable[..., Any],
    tmp_path: Path,
    change: Callable[[Path], Sequence[str]],
    says: Sequence[str],
) -> None:
    before = files(finished)
    done = call("resume", finished, "train.iterations=3", *change(tmp_path / "other"))
    assert done.code == 2
    assert_one_screen(done.err, *says)
    assert files(finished) == before


def test_a_run_without_a_checkpoint_starts_again(
    finished: Path, call: Callable[..., Any], figures: Callable[..., Any]
) -> None:
    rows = figures(finished)
    shutil.rmtree(RunDirectory(finished).checkpoints)
    done = call("resume", finished)
    assert done.code == 0, done.err
    assert "starting it again from its beginning" in done.out
    assert figures(finished) == rows


def test_what_is_no_run_cannot_be_continued(call: Callable[..., Any], tmp_path: Path, finished: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, word in (("rnu", "Did you mean 'run'"), ("empty", "config.resolved.yaml")):
        done = call("resume", folder)
        assert done.code == 2
        assert_one_screen(done.err, folder, word)
