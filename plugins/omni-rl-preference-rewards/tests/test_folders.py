"""What is missing, damaged or of another kind on the disk is said before anything is loaded, and how to get it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from omni_rl.errors import ConfigError, ModelError
from omni_rl_preference_rewards import Aesthetic, ClipScore, HPSv2, ImageReward, PickScore, tiny

Build = Callable[..., Any]

DOWNLOADS = {
    ClipScore: "openai/clip-vit-large-patch14",
    PickScore: "yuvalkirstain/PickScore_v1",
    HPSv2: "xswu/HPSv2",
    Aesthetic: "improved-aesthetic-predictor",
    ImageReward: "THUDM/ImageReward",
}


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_a_missing_folder_says_what_to_download(kind: Any, build: Build, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"reward '\w+': there is no folder [\s\S]*{DOWNLOADS[kind]}"):
        build(kind, path=tmp_path / "absent")


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_another_model_is_refused(kind: Any, build: Build, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(ModelError, match=r"type 'siglip', and this reward takes '(clip|blip)'"):
        build(kind, path=tmp_path)


@pytest.mark.parametrize(("text", "what"), [("{", "not the configuration"), ("[]", "not the configuration")])
def test_a_broken_configuration_is_refused(text: str, what: str, build: Build, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=what):
        build(HPSv2, path=tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(build: Build, clip_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(clip_folder / name, tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer \(tokenizer\.json or vocab\.json and merges\.txt\)"):
        build(HPSv2, path=tmp_path)


def test_pickled_weights_are_refused_with_the_way_out(build: Build, clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    command = rf"omni-rl-convert-reward transformers {tmp_path}/pytorch_model\.bin"
    with pytest.raises(ModelError, match=rf"no model\.safetensors; it has pytorch_model\.bin[\s\S]*{command}"):
        build(PickScore, path=tmp_path)


def test_a_head_for_another_clip_is_refused(build: Build, head_file: Path, tmp_path: Path) -> None:
    weights = load_file(head_file)
    weights["layers.0.weight"] = torch.zeros(1024, 768)
    save_file(weights, tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match=r"takes embeddings of width 768, and the CLIP in .* has 32"):
        build(Aesthetic, head=tmp_path / "head.safetensors")


def test_a_head_that_is_a_pickle_is_refused(build: Build, tmp_path: Path) -> None:
    torch.save({"layers.0.weight": torch.zeros(2, 2)}, tmp_path / "head.pth")
    with pytest.raises(ModelError, match="not an aesthetic predictor in safetensors"):
        build(Aesthetic, head=tmp_path / "head.pth")


def test_a_device_that_is_not_there(build: Build) -> None:
    with pytest.raises(ConfigError, match="cuda:99 is not on this machine"):
        build(Aesthetic, device="cuda:99")


@pytest.mark.parametrize("options", [{"device": "gpu"}, {"scale": "logit"}, {"frames": 0}, {"long_prompts": "cut"}])
def test_config_refuses(options: dict[str, Any], clip_folder: Path) -> None:
    with pytest.raises(ValidationError):
        PickScore.Config(path=clip_folder, **options)


def test_the_tiny_models_are_the_same_every_time(clip_folder: Path, tmp_path: Path) -> None:
    again = load_file(tiny.build_clip(tmp_path) / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in load_file(clip_folder / "model.safetensors").items())
