"""Whatever ends a run, its last complete iteration is saved, and the command that it names goes on."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from omni_rl import resume, train
from omni_rl.errors import RewardError, RunError, UserError
from omni_rl.reporting import artifacts
from omni_rl.run.experience import Sampled
from omni_rl.storage.run_folder import RunDirectory
from omni_rl.training.backend import TorchBackend

pytestmark = pytest.mark.ci

Figures = Callable[[Path], list[dict[str, float]]]
Weights = Callable[..., dict[str, torch.Tensor]]
SETTINGS = ["train.iterations=3", "train.checkpoint_every=0", "validation.every=2", "train.ema.decay=0.9"]


def in_iteration(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], Any], where: Any = Sampled) -> None:
    """Do something once, at the beginning of the rollout (or of another step) of an iteration; counts from 1."""
    name = "next" if where is Sampled else "update"
    original = getattr(where, name)
    calls = []

    def changed(self: Any, *arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            act()
        return original(self, *arguments)

    monkeypatch.setattr(where, name, changed)


def raiser(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def sender(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


ERRORS = [
    RewardError("the scorer is down"),
    RunError("the engine is lost"),
    OSError(28, "No space left on device"),
    AssertionError("a bug"),
    SystemExit(0),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_an_iteration_costs_only_this_iteration(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
    weights: Weights,
    error: BaseException,
) -> None:
    with monkeypatch.context() as patch:
        in_iteration(patch, 3, raiser(error))
        with pytest.raises((UserError, RunError)) as raised:
            train(recipe, SETTINGS, tmp_path / "run")
    assert f"omni-rl resume {tmp_path}/run" in "".join(raised.value.__notes__)
    assert "iteration 2 is saved" in "".join(raised.value.__notes__)
    assert [row["iteration"] for row in figures(tmp_path / "run")] == [1, 2]
    same_as_undisturbed(recipe, tmp_path, figures, weights)


def same_as_undisturbed(recipe: dict[str, Any], tmp_path: Path, figures: Figures, weights: Weights) -> None:
    """Continue the run, and compare it with one that nothing disturbed."""
    assert resume(tmp_path / "run").state.iteration == 3
    train(recipe, SETTINGS, tmp_path / "undisturbed")
    assert figures(tmp_path / "run") == figures(tmp_path / "undisturbed")
    one, other = weights(tmp_path / "run"), weights(tmp_path / "undisturbed")
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    texts = [(tmp_path / name / "validation.jsonl").read_text() for name in ("run", "undisturbed")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_ends_the_rollout_and_saves(
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
    weights: Weights,
    name: str,
) -> None:
    number = getattr(signal, name)
    earlier = signal.getsignal(number)
    with monkeypatch.context() as patch:
        in_iteration(patch, 3, sender(number))
        run = train(recipe, SETTINGS, tmp_path / "run")
    assert (run.interrupted, run.signal, run.state.iteration) == (True, number, 2)
    assert signal.getsignal(number) == earlier
    same_as_undisturbed(recipe, tmp_path, figures, weights)


def test_a_signal_waits_for_the_end_of_an_update(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures, weights: Weights
) -> None:
    """Iteration 2 is complete then; its validation, which the signal ends, is made up for on resume."""
    with monkeypatch.context() as patch:
        in_iteration(patch, 2, sender(signal.SIGTERM), TorchBackend)
        run = train(recipe, SETTINGS, tmp_path / "run")
    assert (run.interrupted, run.state.iteration) == (True, 2)
    assert "val/reward/mean" not in figures(tmp_path / "run")[1]
    same_as_undisturbed(recipe, tmp_path, figures, weights)


def test_an_error_of_an_update_falls_back_to_the_newest_checkpoint(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures, weights: Weights
) -> None:
    """The weights belong to no iteration then, so they are saved under no number."""
    with monkeypatch.context() as patch:
        in_iteration(patch, 3, raiser(ValueError("boom")), TorchBackend)
        with pytest.raises(RunError, match="boom") as raised:
            train(recipe, SETTINGS, tmp_path / "run")
    note = "".join(raised.value.__notes__)
    assert "there is no checkpoint, 2 complete iterations are lost" in note
    assert list(RunDirectory(tmp_path / "run").checkpoints.iterdir()) == []
    assert "boom" in (tmp_path / "run/error.txt").read_text()
    same_as_undisturbed(recipe, tmp_path, figures, weights)


def test_a_checkpoint_is_written_after_the_given_seconds(recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = [*SETTINGS, "train.checkpoint_every_s=0.001", "train.keep_checkpoints=9", "validation.every=0"]
    train(recipe, settings, tmp_path / "run")
    names = {path.name for path in RunDirectory(tmp_path / "run").checkpoints.iterdir()}
    assert names >= {"iteration-000001", "iteration-000002", "iteration-000003"}


def test_a_user_error_before_the_first_iteration_leaves_other_files_alone(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def act() -> None:
        (folder / "images/mine.png").write_text("mine")
        raise RewardError("the scorer is down")

    with monkeypatch.context() as patch:
        in_iteration(patch, 1, act)
        with pytest.raises(RewardError) as raised:
            train(recipe, SETTINGS, folder)
    assert (folder / "images/mine.png").read_text() == "mine"
    assert f"omni-rl resume {folder}" in "".join(raised.value.__notes__)
    assert resume(folder).state.iteration == 3


def test_a_user_error_before_the_first_iteration_leaves_room_for_the_mended_run(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with monkeypatch.context() as patch:
        in_iteration(patch, 1, raiser(RewardError("the scorer is down")))
        with pytest.raises(RewardError):
            train(recipe, SETTINGS, folder)
    assert list(folder.iterdir()) == []
    assert train(recipe, ["train.iterations=1"], folder).state.iteration == 1


def test_a_run_that_cannot_write_its_beginning_can_be_started_again(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no run yet that could be continued."""
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "write_gate", lambda *_: raiser(RunError("the disk is full"))())
        with pytest.raises(RunError, match="the disk is full") as raised:
            train(recipe, SETTINGS, tmp_path / "run")
    assert "give the same command again" in "".join(raised.value.__notes__)
    assert "resume" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def finished(recipe: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "reward.py").write_text(
        "def score(batch):\n    return [float(m['image'].data.mean()) for m in batch.media]\n"
    )
    recipe["reward"] = [{"name": "python", "file": str(tmp_path / "reward.py")}]
    recipe["model"]["lora"] = {"rank": 4, "targets": ["to_q", "to_k"]}
    train(recipe, ["train.iterations=2"], tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "override",
    ["model.lora.alpha=64", "model.lora.rank=8", "model.lora.targets=[to_q]", "model.lora=null", "train.ema.decay=0.5"],
)
def test_what_gives_stored_weights_their_meaning_cannot_change(finished: Path, override: str) -> None:
    before = contents(finished)
    with pytest.raises(UserError, match=r"the weights in .*iteration-000002 were trained with"):
        resume(finished, ["train.iterations=3", override])
    assert contents(finished) == before


def test_differences_are_shown_and_the_gate_checks_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reward.py").write_text(
        "def score(batch):\n    return [float(m['image'].data.max()) for m in batch.media]\n"
    )
    resume(finished, ["train.iterations=3", "train.lr=1e-4", "gate=warn"], show=True)
    said = capsys.readouterr().out
    for words in ("different from the checkpoint", "train.lr: 0.003 -> 0.0001", "rewards python", "gate\n"):
        assert words in said
    assert json.loads((finished / "gate.json").read_text())


def drop(lines: list[str]) -> list[str]:
    return lines[1:]


def double(lines: list[str]) -> list[str]:
    return [*lines, lines[-1]]


def other_figures(lines: list[str]) -> list[str]:
    return [
        lines[0].replace('"reward/mean": 0', '"reward/mean": 1').replace('"reward/std": ', '"reward/std": 1'),
        *lines[1:],
    ]


@pytest.mark.parametrize("damage", [drop, double, other_figures])
def test_metrics_of_another_run_are_refused(finished: Path, damage: Callable[[list[str]], list[str]]) -> None:
    file = finished / "metrics.jsonl"
    file.write_text("".join(damage(file.read_text().splitlines(keepends=True))))
    before = contents(finished)
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        resume(finished, ["train.iterations=3"])
    assert contents(finished) == before


def other_validation(lines: list[str]) -> list[str]:
    return [re.sub(r'("val/reward/mean": )', r"\g<1>1", lines[0]), *lines[1:]]


@pytest.mark.parametrize("damage", [double, other_validation, lambda lines: lines[::-1]])
def test_validations_of_another_run_are_refused(finished: Path, damage: Callable[[list[str]], list[str]]) -> None:
    file = finished / "validation.jsonl"
    file.write_text("".join(damage(file.read_text().splitlines(keepends=True))))
    before = contents(finished)
    with pytest.raises(UserError, match=r"validation\.jsonl has (other figures|double)"):
        resume(finished, ["train.iterations=3"])
    assert contents(finished) == before


def test_a_validation_that_is_missing_is_told(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = finished / "validation.jsonl"
    file.write_text("".join(drop(file.read_text().splitlines(keepends=True))))
    assert resume(finished, ["train.iterations=3"], show=True).state.iteration == 3
    assert "the validations of iterations 0 are missing" in capsys.readouterr().out


def test_an_error_after_the_last_iteration_does_not_name_another(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "write_report", lambda *_: {}["a bug"])
    with pytest.raises(RunError, match=r"the end of the run failed: .*a bug") as raised:
        train(recipe, SETTINGS, tmp_path / "run")
    assert "iteration 3 is saved" in "".join(raised.value.__notes__)


def test_a_checkpoint_of_another_run_is_refused(finished: Path) -> None:
    file = finished / "provenance.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "run": "0123456789abcdef"}))
    with pytest.raises(UserError, match="written by another run"):
        resume(finished, ["train.iterations=3"])


def test_what_the_report_needs_is_checked_at_the_start(finished: Path) -> None:
    overrides = ["train.iterations=3"]
    with pytest.raises(UserError, match=r"has 4 samples, but a validation now has 1"):
        resume(finished, [*overrides, "validation.prompts=1"])
    first = finished / "images/before.safetensors"
    first.write_bytes(first.read_bytes()[:50])
    with pytest.raises(UserError, match=r"before\.safetensors is damaged.*\n.*rm -f"):
        resume(finished, overrides)
    first.unlink()
    rows = finished / "validation.jsonl"
    rows.write_text(rows.read_text()[:-20])
    with pytest.raises(UserError, match=r"validation\.jsonl, line 2 is damaged"):
        resume(finished, overrides)
    rows.write_text(rows.read_text().splitlines(keepends=True)[0])
    assert resume(finished, overrides).state.iteration == 3
    assert (finished / "report.html").is_file()


def test_a_run_has_one_process_at_a_time(finished: Path) -> None:
    with RunDirectory(finished).locked(), pytest.raises(UserError, match=f"process {os.getpid()}"):
        resume(finished, ["train.iterations=3"])
    assert resume(finished, ["train.iterations=3"]).state.iteration == 3
    assert not (finished / "run.lock").exists()
