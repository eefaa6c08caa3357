"""Whatever is wrong with the input, one screen says what, where, and what to type next; nothing is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

SCREEN = 15


def assert_refused(outcome: Any, code: int, folder: Path, *says: str) -> None:
    text = outcome.err
    assert outcome.code == code, text
    assert "Traceback" not in outcome.out + text
    assert [word for word in says if word not in text] == [], text
    assert len(text.splitlines()) <= SCREEN, text
    assert not (folder / "runs").exists() or list((folder / "runs").iterdir()) == []


MISTAKES: Mapping[str, tuple[Mapping[str, Any], Sequence[str]]] = {
    "unknown key": ({"train": {"iteratons": 3}}, ["run.yaml:", "train.iteratons", "iterations"]),
    "unknown key of a plugin": ({"algorithm": {"clip_rnge": 1}}, ["run.yaml:", "algorithm.clip_rnge", "clip_range"]),
    "wrong type": ({"train": {"iterations": "many"}}, ["run.yaml:", "train.iterations", "whole number", "'many'"]),
    "negative": ({"train": {"lr": -1}}, ["run.yaml:", "train.lr", "0"]),
    "group of one": ({"rollout": {"group_size": 1}}, ["run.yaml:", "rollout.group_size", "2 or more"]),
    "missing model": ({"model": {"path": "./modle"}}, ["run.yaml:", "model.path", "./modle", "installed checkpoints"]),
    "missing prompts": ({"data": {"path": "promts.txt"}}, ["run.yaml:", "promts.txt", "Did you mean 'prompts.txt'"]),
    "missing reward": ({"reward": [{"name": "brightnes"}]}, ["run.yaml:", "brightnes", "Did you mean 'brightness'"]),
    "missing engine": ({"rollout": {"engine": "vlm"}}, ["run.yaml:17", "No engine 'vlm'", "diffusers"]),
    "unknown algorithm": (
        {"algorithm": {"name": "flow_gpro"}},
        ["run.yaml:5", "No algorithm 'flow_gpro'", "'flow_grpo'"],
    ),
    "window": ({"algorithm": {"window_size": 9}}, ["algorithm.window_size 9", "3 steps", "rollout.steps"]),
    "own argument": ({"rollout": {"call": {"generator": 1}}}, ["rollout.call.generator", "seed"]),
    "no such device": ({"device": "cuda:99"}, ["cuda:99", "device: auto"]),
    "missing local plugin": ({"plugins": ["./mine.py"]}, ["mine.py", "cannot be read"]),
    "missing reward file": ({"reward": [{"name": "python", "file": "./score.py"}]}, ["score.py", "does not exist"]),
}


@pytest.mark.parametrize(("change", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_configuration(
    call: Callable[..., Any],
    config_file: Callable[..., Path],
    tmp_path: Path,
    change: Mapping[str, Any],
    says: Sequence[str],
) -> None:
    assert_refused(call("train", config_file(**change)), 2, tmp_path, *says)


def test_the_package_of_an_uninstalled_algorithm_is_named(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What core knows of and is not there can be had with one line."""
    monkeypatch.setenv("OMNI_RL_DISABLE", "omni-rl-flow-grpo")
    outcome = call("train", config_file())
    assert_refused(outcome, 2, tmp_path, "run.yaml:5", "No algorithm 'flow_grpo'", "omni-rl-flow-grpo")


def test_several_mistakes_are_told_at_once(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = config_file(train={"iteratons": 3}, rollout={"group_size": 1}, data={"path": "promts.txt"})
    assert_refused(call("train", file), 2, tmp_path, "iteratons", "group_size", "promts.txt")


def test_broken_yaml(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("seed: 0\nmodel: {path: tiny\nalgorithm: flow_grpo\n")
    assert_refused(call("train", "run.yaml"), 2, tmp_path, "run.yaml:3")


def test_a_missing_configuration(call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path) -> None:
    config_file()
    assert_refused(call("train", "rnu.yaml"), 2, tmp_path, "rnu.yaml", "run.yaml")


def test_an_override_of_an_unknown_key(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path
) -> None:
    assert_refused(call("train", config_file(), "train.lrr=1"), 2, tmp_path, "train.lrr", "lr")


def test_an_override_without_a_value(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path
) -> None:
    assert_refused(call("train", config_file(), "train.lr"), 2, tmp_path, "train.lr", "=")


def test_an_unknown_option(call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path) -> None:
    assert_refused(call("train", config_file(), "--run-dri", "x"), 2, tmp_path, "--run-dri", "--run-dir")


def test_an_unknown_command(call: Callable[..., Any], tmp_path: Path) -> None:
    assert_refused(call("trian"), 2, tmp_path, "trian", "train")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("empty.txt", "", ["empty.txt", "no prompts"]),
        ("blank.txt", "\n  \n\n", ["blank.txt", "no prompts"]),
        ("broken.jsonl", '{"prompt": "a"}\n{"prompt":\n', ["broken.jsonl:2", "JSON"]),
        ("column.jsonl", '{"text": "a"}\n', ["column.jsonl:1", "'prompt'", "text", "data.prompt_column"]),
        ("prompts.csv", "prompt\na\n", ["csv"]),
    ],
)
def test_a_prompt_file_that_is_none(
    call: Callable[..., Any],
    config_file: Callable[..., Path],
    tmp_path: Path,
    name: str,
    text: str,
    says: Sequence[str],
) -> None:
    (tmp_path / name).write_text(text)
    assert_refused(call("train", config_file(data={"path": name})), 2, tmp_path, *says)


def test_an_existing_run_directory(call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("dear to me")
    outcome = call("train", config_file(), "--run-dir", taken)
    assert_refused(outcome, 2, tmp_path, "taken", "not empty", "--run-dir", "not a run directory")
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["absent", "."])
def test_an_export_of_what_is_no_run(call: Callable[..., Any], tmp_path: Path, name: str) -> None:
    assert_refused(call("export", name), 2, tmp_path, "run directory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ('{"_class_name": "PaintByMagicPipeline"}', ["PaintByMagicPipeline"]),
        ('{"_class_name": ', ["model_index.json", "_class_name"]),
        ("{}", ["model_index.json", "_class_name"]),
    ],
)
def test_a_model_folder_that_is_none(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path, index: str, says: Sequence[str]
) -> None:
    (tmp_path / "magic").mkdir()
    (tmp_path / "magic/model_index.json").write_text(index)
    assert_refused(call("train", config_file(model={"path": "magic"})), 2, tmp_path, "magic", *says)


@pytest.mark.ci
def test_a_model_folder_without_a_weight_file(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path
) -> None:
    from omni_rl_tiny import build_random

    folder = build_random(tmp_path / "cut")
    (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    assert_refused(
        call("train", config_file(model={"path": "cut"})),
        2,
        tmp_path,
        "cut",
        "not a whole safetensors file",
        "download",
    )


FORESEEN: Mapping[str, tuple[Mapping[str, Any], Sequence[str]]] = {
    "argument": ({"rollout": {"call": {"hieght": 32}}}, ["run.yaml:", "no argument 'hieght'", "'height'"]),
    "argument of validation": ({"validation": {"call": {"hieght": 32}}}, ["run.yaml:", "validation.call", "'height'"]),
    "window": ({"algorithm": {"window_size": 9}}, ["algorithm.window_size 9", "3 steps", "rollout.steps"]),
    "adapters": ({"model": {"lora": {"targets": ["qkv"]}}}, ["run.yaml:5", "of transformer ends in ['qkv']"]),
    "one of the adapters": (
        {"model": {"lora": {"targets": ["to_q", "to_out.1"]}}},
        ["run.yaml:5", "no linear module of transformer ends in 'to_out.1'. Did you mean 'to_out.0'?"],
    ),
}


@pytest.mark.parametrize(("change", "says"), FORESEEN.values(), ids=FORESEEN)
def test_what_needs_no_weights_is_found_before_they_are_read(
    call: Callable[..., Any],
    config_file: Callable[..., Path],
    tmp_path: Path,
    tiny_model: Path,
    change: Mapping[str, Any],
    says: Sequence[str],
) -> None:
    """There are none here to be read."""
    folder = shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    changes = {**change, "model": {"path": str(folder), **change.get("model", {})}}
    assert_refused(call("train", config_file(**changes)), 2, tmp_path, *says)


SIZES = [
    (None, {"height": 17}, ["height", "17", "try 16"]),
    (None, {"height": "tall"}, ["run.yaml:", "height", "positive whole number", "tall"]),
    ("universal", {"width": -16}, ["run.yaml:", "width", "positive whole number", "-16"]),
    ("universal", {"max_sequence_length": 5000}, ["QwenImagePipeline refuses", "max_sequence_length", "5000"]),
]


@pytest.mark.ci
@pytest.mark.parametrize("gate", ["on", "off"])
@pytest.mark.parametrize(("plugin", "given", "says"), SIZES)
def test_an_impossible_size(
    call: Callable[..., Any],
    config_file: Callable[..., Path],
    tmp_path: Path,
    tiny_model: Path,
    plugin: str | None,
    given: Mapping[str, Any],
    says: Sequence[str],
    gate: str,
) -> None:
    """By the plugin, by core, or by the pipeline itself."""
    file = config_file(
        model={"path": str(tiny_model), "plugin": plugin},
        rollout={"call": {"height": 32, "width": 32, **given}},
        gate=gate,
    )
    assert_refused(call("train", file), 2, tmp_path, *says)


@pytest.mark.ci
@pytest.mark.parametrize("gate", ["on", "off"])
def test_a_prompt_that_is_too_long(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path, gate: str
) -> None:
    (tmp_path / "long.txt").write_text("zebra 7! " * 1500 + "\n")
    outcome = call("train", config_file(data={"path": "long.txt"}, gate=gate))
    assert_refused(outcome, 2, tmp_path, "1024 tokens", "zebra", "long.txt:1", "mend or remove")


WRONG_REWARDS: Mapping[str, tuple[str, Sequence[str]]] = {
    "nan": ("return [float('nan')] * len(batch)", ["'python'", "nan", "not a finite number"]),
    "length": ("return [0.5]", ["'python'", "1 scores for", "one number per sample"]),
    "raises": ("return [m['imaeg'] for m in batch.media]", ["'python'", "KeyError", "imaeg", "score.py:2"]),
    "nothing": ("pass", ["'python'", "None", "list"]),
}


@pytest.mark.ci
@pytest.mark.parametrize("gate", ["on", "off"])
@pytest.mark.parametrize(("body", "says"), WRONG_REWARDS.values(), ids=WRONG_REWARDS)
def test_a_reward_that_is_none(
    call: Callable[..., Any],
    config_file: Callable[..., Path],
    tmp_path: Path,
    gate: str,
    body: str,
    says: Sequence[str],
) -> None:
    """Found by the gate; without it, when three iterations had no scores."""
    (tmp_path / "score.py").write_text(f"def score(batch):\n    {body}\n")
    file = config_file(
        reward=[{"name": "python", "file": "score.py"}], validation={"reward": [{"name": "brightness"}]}, gate=gate
    )
    outcome = call("train", file, "--run-dir", "tried")
    assert_refused(outcome, 2, tmp_path, *says)
    assert (tmp_path / "tried").exists() == (gate == "off")


@pytest.mark.ci
def test_a_reward_that_breaks_later_leaves_what_was_learned(
    call: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path, figures: Callable[..., Any]
) -> None:
    (tmp_path / "score.py").write_text(
        "calls = []\n\n\ndef score(batch):\n    calls.append(1)\n"
        "    return [float(m['image'].data.mean()) / len(calls[3:] or [1]) / (len(calls) < 4) for m in batch.media]\n"
    )
    file = config_file(
        reward=[{"name": "python", "file": "score.py"}],
        validation={"reward": [{"name": "brightness"}]},
        train={"checkpoint_every": 1, "iterations": 9},
    )
    outcome = call("train", file, "--run-dir", "kept")
    assert_refused(outcome, 2, tmp_path, "ZeroDivisionError", "score.py:6")
    assert [row["reward/missing_ratio"] for row in figures(tmp_path / "kept")] == [0, 0, 0, 1, 1]
    assert json.loads((tmp_path / "kept/checkpoints/latest.json").read_text()) == {"checkpoint": "iteration-000005"}


@pytest.mark.ci
def test_the_installed_script_shows_no_traceback(
    spawn: Callable[..., Any], config_file: Callable[..., Path], tmp_path: Path
) -> None:
    assert_refused(spawn("train", config_file(train={"iteratons": 3})), 2, tmp_path, "train.iteratons", "iterations")
