"""Published checkpoints, written here by models of their own, through the converter and the rewards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_models import (
    Weights,
    cropped,
    fitted,
    image_reward_shapes,
    image_rewards,
    open_clip_cosines,
    open_clip_shapes,
    random_weights,
)
from safetensors.torch import load_file
from transformers import BertTokenizer, CLIPModel, CLIPTokenizer

from omni_rl.contracts.reward import RewardBatch
from omni_rl_preference_rewards import Aesthetic, HPSv2, ImageReward, PickScore, tiny
from omni_rl_preference_rewards.convert import main
from omni_rl_preference_rewards.original_blip import blip_config

Convert = Callable[..., str]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Convert:
    """``convert("aesthetic", a, b)``: what the program prints; to stderr when it exits 2."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["omni-rl-convert-reward", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert left.value.code == (2 if "error:" in err else 0)
        return err if "error:" in err else out

    return run


def pixels(prepare: Callable[[np.ndarray], np.ndarray], samples: RewardBatch) -> torch.Tensor:
    return torch.tensor(np.stack([prepare(media["image"].data) for media in samples.media]))


def hps_weights(clip_folder: Path) -> Weights:
    words = len(CLIPTokenizer.from_pretrained(clip_folder))
    return random_weights(open_clip_shapes(words, width=64, depth=2, image=32, patch=8, embed=tiny.WIDTH))


def image_reward_weights(image_reward_folder: Path) -> Weights:
    words = len(BertTokenizer.from_pretrained(image_reward_folder))
    shapes = image_reward_shapes(words, text=64, vision=128, depths=(2, 3), image=32, patch=8, places=40)
    return random_weights(shapes)


def test_hps_scores_as_open_clip_does(
    clip_folder: Path, samples: RewardBatch, convert: Convert, tmp_path: Path
) -> None:
    weights = hps_weights(clip_folder)
    torch.save({"state_dict": weights}, tmp_path / "HPS.pt")
    written = convert("hps_v2", tmp_path / "HPS.pt", tmp_path / "hps", "--base", clip_folder)
    assert written == f"wrote {tmp_path}/hps/model.safetensors\n"
    ids = CLIPTokenizer.from_pretrained(clip_folder)(samples.prompts, padding="max_length", return_tensors="pt")
    ends = ids["attention_mask"].sum(1) - 1
    expected = open_clip_cosines(weights, pixels(fitted, samples), ids["input_ids"], ends)
    found = HPSv2(HPSv2.Config(path=tmp_path / "hps", device="cpu")).score(samples)
    assert expected.std() > 0.02
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_image_reward_scores_as_the_original_does(
    image_reward_folder: Path, samples: RewardBatch, convert: Convert, tmp_path: Path
) -> None:
    weights = image_reward_weights(image_reward_folder)
    torch.save(weights, tmp_path / "ImageReward.pt")
    convert("image_reward", tmp_path / "ImageReward.pt", tmp_path / "out", "--base", image_reward_folder)
    ids = BertTokenizer.from_pretrained(image_reward_folder)(samples.prompts, padding=True, return_tensors="pt")
    expected = image_rewards(weights, pixels(cropped, samples), ids["input_ids"], ids["attention_mask"])
    found = ImageReward(ImageReward.Config(path=tmp_path / "out", device="cpu")).score(samples)
    assert expected.std() > 0.1
    assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_published_image_reward_is_recognised_by_its_sizes() -> None:
    """BLIP with ViT-L/16 at 224 pixels and BERT base; ``med_config.json`` of THUDM/ImageReward."""
    shapes = image_reward_shapes(30524, text=768, vision=1024, depths=(24, 12), image=224, patch=16, places=512)
    config = blip_config({name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()})
    vision, text = config.vision_config, config.text_config
    assert (vision.image_size, vision.patch_size, vision.num_hidden_layers, vision.num_attention_heads) == (
        224, 16, 24, 16,
    )  # fmt: skip
    assert (vision.hidden_size, vision.intermediate_size, text.encoder_hidden_size) == (1024, 4096, 1024)
    assert (text.vocab_size, text.num_hidden_layers, text.num_attention_heads) == (30524, 12, 12)
    assert (text.hidden_size, text.intermediate_size, text.max_position_embeddings) == (768, 3072, 512)


def test_aesthetic_keeps_the_weights(
    head_file: Path, clip_folder: Path, samples: RewardBatch, convert: Convert, tmp_path: Path
) -> None:
    torch.save(load_file(head_file), tmp_path / "linearMSE.pth")
    convert("aesthetic", tmp_path / "linearMSE.pth", tmp_path / "new/head.safetensors")
    scores = [
        Aesthetic(Aesthetic.Config(path=clip_folder, head=head, device="cpu")).score(samples)
        for head in (head_file, tmp_path / "new/head.safetensors")
    ]
    assert scores[0] == scores[1]


def test_a_transformers_folder_keeps_the_weights(
    clip_folder: Path, samples: RewardBatch, convert: Convert, tmp_path: Path
) -> None:
    torch.save(CLIPModel.from_pretrained(clip_folder).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((clip_folder / "config.json").read_bytes())
    convert("transformers", tmp_path / "pytorch_model.bin")
    options: dict[str, Any] = {"processor": clip_folder, "device": "cpu"}
    found = [PickScore(PickScore.Config(path=path, **options)).score(samples) for path in (tmp_path, clip_folder)]
    assert found[0] == found[1]


# ---------------------------------------------------------------------------------------------------------- errors


class Trap:
    """What a malicious pickle does when it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("sprung"),)


def test_a_pickle_runs_no_code(convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"layers.0.weight": Trap()}, "trap.pth")
    torch.save({"layers.0.weight": Trap()}, "old.pth", _use_new_zipfile_serialization=False)
    Path("empty.pth").touch()
    for name in ("trap.pth", "old.pth", "empty.pth"):
        assert "cannot be read as tensors alone" in convert("aesthetic", name, "out.safetensors")
    assert not Path("sprung").exists()
    assert not Path("out.safetensors").exists()


def test_what_exists_is_not_overwritten(head_file: Path, convert: Convert, tmp_path: Path) -> None:
    torch.save(load_file(head_file), tmp_path / "a.pth")
    before = head_file.read_bytes()
    assert f"{head_file} exists already" in convert("aesthetic", tmp_path / "a.pth", head_file)
    assert head_file.read_bytes() == before


def test_a_missing_checkpoint(convert: Convert, tmp_path: Path) -> None:
    assert "there is no file" in convert("transformers", tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"layers.0.weight": torch.zeros(2, 2), "epoch": 3}])
def test_something_that_is_no_table_of_tensors(content: object, convert: Convert, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    said = convert("aesthetic", tmp_path / "other.pth", tmp_path / "head.safetensors")
    assert "holds something else than a table of tensors" in said


def test_the_base_is_not_written_into(clip_folder: Path, convert: Convert, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in clip_folder.iterdir()}
    torch.save({"state_dict": hps_weights(clip_folder)}, tmp_path / "HPS.pt")
    assert "exists already" in convert("hps_v2", tmp_path / "HPS.pt", clip_folder, "--base", clip_folder)
    assert {file.name: file.read_bytes() for file in clip_folder.iterdir()} == before


@pytest.mark.parametrize("kind", ["hps_v2", "image_reward", "aesthetic"])
def test_another_checkpoint_is_refused(
    kind: str, clip_folder: Path, image_reward_folder: Path, convert: Convert, tmp_path: Path
) -> None:
    torch.save({"some.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    base = {"hps_v2": ["--base", clip_folder], "image_reward": ["--base", image_reward_folder]}.get(kind, [])
    said = convert(kind, tmp_path / "other.pt", tmp_path / "out", *base)
    assert "does not fit the model" in said or "is not" in said
    assert not (tmp_path / "out").exists()


def test_a_base_of_other_sizes_is_refused(clip_folder: Path, convert: Convert, tmp_path: Path) -> None:
    weights = hps_weights(clip_folder)
    weights["visual.proj"] = torch.zeros(64, 16)
    torch.save({"state_dict": weights}, tmp_path / "HPS.pt")
    said = convert("hps_v2", tmp_path / "HPS.pt", tmp_path / "hps", "--base", clip_folder)
    assert "visual_projection.weight is (16, 64) and should be (32, 64) (1 differ)" in said


def test_a_base_with_another_activation_is_refused(clip_folder: Path, convert: Convert, tmp_path: Path) -> None:
    """OpenAI's CLIP and some of the same size as HPSv2's have quick_gelu: the weights would fit, the scores not."""
    base = tmp_path / "base"
    base.mkdir()
    for file in clip_folder.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    (base / "config.json").write_text(json.dumps(config))
    torch.save({"state_dict": hps_weights(clip_folder)}, tmp_path / "HPS.pt")
    said = convert("hps_v2", tmp_path / "HPS.pt", tmp_path / "hps", "--base", base)
    assert "activation is not gelu" in said


def test_a_base_without_a_tokenizer(clip_folder: Path, convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_bytes((clip_folder / "config.json").read_bytes())
    torch.save({"state_dict": {}}, tmp_path / "HPS.pt")
    assert "base has no tokenizer (tokenizer.json or vocab.json and merges.txt)" in convert(
        "hps_v2", tmp_path / "HPS.pt", tmp_path / "o", "--base", tmp_path / "base"
    )
