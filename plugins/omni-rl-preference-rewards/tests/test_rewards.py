"""The rewards on tiny random models of the real classes, against arithmetic in float64."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from published_models import cropped, fitted
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer

from omni_rl.contracts.media import Media
from omni_rl.contracts.reward import RewardBatch
from omni_rl.contracts.schema import RewardEntry
from omni_rl.errors import DataError, ModelError, RewardError
from omni_rl_preference_rewards import Aesthetic, ClipScore, HPSv2, ImageReward, PickScore
from omni_rl_testing.reward import RewardContract, take

LONG = "a very long prompt " * 6

Build = Callable[..., Any]


class PreferenceContract(RewardContract):
    tolerance = 2e-5  # of fp32 through two transformers: kernels differ with the number of rows

    kind: Any
    options: dict[str, Any] = {}  # noqa: RUF012

    @pytest.fixture
    def reward(self, build: Build) -> Any:
        return build(self.kind, **self.options)


class TestClipScore(PreferenceContract):
    kind = ClipScore
    options = {"scale": "cosine"}  # noqa: RUF012 - random cosines are often negative, and CLIP-S is 0 there


class TestPickScore(PreferenceContract):
    kind = PickScore


class TestHPSv2(PreferenceContract):
    kind = HPSv2


class TestAesthetic(PreferenceContract):
    kind = Aesthetic


class TestImageReward(PreferenceContract):
    kind = ImageReward


# --------------------------------------------------------------------------------------------------------- figures


def model_logits(folder: Path, pixels: list[np.ndarray], texts: list[str]) -> tuple[np.ndarray, np.ndarray, float]:
    """``logits_per_image`` of each picture and its text, its unit image embeddings, and ``exp(logit_scale)``."""
    model = CLIPModel.from_pretrained(folder).double().eval()
    ids = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=torch.tensor(np.stack(pixels)), **ids)
    return out.logits_per_image.diagonal().numpy(), out.image_embeds.numpy(), float(model.logit_scale.detach().exp())


def pictures(samples: RewardBatch) -> list[np.ndarray]:
    return [media["image"].data for media in samples.media]


def test_clip_score_is_a_scaled_cosine_with_the_published_prefix(
    build: Build, samples: RewardBatch, clip_folder: Path
) -> None:
    texts = [f"A photo depicts {prompt}" for prompt in samples.prompts]
    logits, _, factor = model_logits(clip_folder, [cropped(picture) for picture in pictures(samples)], texts)
    cosines = logits / factor
    assert cosines.min() < 0  # or the test below would not see what becomes of negative ones
    assert build(ClipScore, scale="cosine").score(samples) == pytest.approx(cosines.tolist(), abs=1e-5)
    assert build(ClipScore).score(samples) == pytest.approx((2.5 * cosines.clip(0)).tolist(), abs=3e-5)
    assert build(ClipScore, scale="percent").score(samples) == pytest.approx((100 * cosines.clip(0)).tolist(), abs=1e-3)


def test_clip_score_without_the_prefix(build: Build, samples: RewardBatch, clip_folder: Path) -> None:
    prepared = [cropped(picture) for picture in pictures(samples)]
    logits, _, factor = model_logits(clip_folder, prepared, samples.prompts)
    found = build(ClipScore, scale="cosine", prefix="").score(samples)
    assert found == pytest.approx((logits / factor).tolist(), abs=1e-5)


def test_pickscore_is_the_models_own_logit(build: Build, samples: RewardBatch, clip_folder: Path) -> None:
    prepared = [cropped(picture) for picture in pictures(samples)]
    logits, _, _ = model_logits(clip_folder, prepared, samples.prompts)
    assert build(PickScore).score(samples) == pytest.approx(logits.tolist(), abs=2e-4)
    assert build(PickScore, scale="unit").score(samples) == pytest.approx((logits / 26).tolist(), abs=1e-5)


def test_hps_is_a_cosine_with_the_whole_picture(build: Build, samples: RewardBatch, clip_folder: Path) -> None:
    logits, _, factor = model_logits(clip_folder, [fitted(picture) for picture in pictures(samples)], samples.prompts)
    cosines = (logits / factor).tolist()
    assert build(HPSv2).score(samples) == pytest.approx(cosines, abs=1e-5)
    assert build(HPSv2, scale="percent").score(samples) == pytest.approx([100 * c for c in cosines], abs=1e-3)


def test_aesthetic_rates_unit_embeddings(
    build: Build, samples: RewardBatch, clip_folder: Path, head_file: Path
) -> None:
    _, rating, _ = model_logits(clip_folder, [cropped(picture) for picture in pictures(samples)], samples.prompts)
    head = {name: tensor.double().numpy() for name, tensor in load_file(head_file).items()}
    for place in (0, 2, 4, 6, 7):  # no activation between
        rating = rating @ head[f"layers.{place}.weight"].T + head[f"layers.{place}.bias"]
    assert build(Aesthetic).score(samples) == pytest.approx(rating[:, 0].tolist(), abs=1e-5)


def test_aesthetic_does_not_read_the_prompt(build: Build, samples: RewardBatch) -> None:
    other = RewardBatch(samples.media, [LONG] * len(samples), samples.metadata, samples.uids)
    assert build(Aesthetic).score(other) == build(Aesthetic).score(samples)


@pytest.mark.parametrize("kind", [ClipScore, PickScore, HPSv2, Aesthetic, ImageReward])
def test_an_empty_batch(kind: Any, build: Build, samples: RewardBatch) -> None:
    assert build(kind).score(take(samples, [])) == []


# ----------------------------------------------------------------------------------------------------------- video


def as_video(frames: list[np.ndarray], prompt: str) -> RewardBatch:
    return RewardBatch([{"video": Media("video", np.stack(frames), 8.0)}], [prompt], [{}], [0])


@pytest.mark.parametrize(("wanted", "chosen"), [(2, [2, 7]), (4, [1, 3, 6, 8]), (None, range(10)), (12, range(10))])
@pytest.mark.parametrize("kind", [PickScore, ImageReward])
def test_a_video_scores_the_mean_over_evenly_spaced_frames(
    kind: Any, wanted: int | None, chosen: list[int], build: Build
) -> None:
    frames = list(np.random.default_rng(1).integers(0, 256, (10, 36, 36, 3), np.uint8))
    single = [RewardBatch([{"image": Media("image", frames[i])}], ["snow"], [{}], [0]) for i in chosen]
    reward = build(kind, frames=wanted)
    expected = np.mean([reward.score(batch)[0] for batch in single])
    assert reward.score(as_video(frames, "snow")) == [pytest.approx(expected, abs=1e-4)]


def test_videos_and_images_may_share_a_batch(build: Build, samples: RewardBatch) -> None:
    video = as_video(list(np.random.default_rng(2).integers(0, 256, (5, 36, 36, 3), np.uint8)), "a bird")
    both = RewardBatch([video.media[0], *samples.media], ["a bird", *samples.prompts], [{}] * 7, [9, *samples.uids])
    reward = build(HPSv2)
    assert reward.score(both) == pytest.approx(reward.score(video) + reward.score(samples), abs=1e-5)


def test_sound_is_refused(build: Build) -> None:
    sound = {"audio": Media("audio", np.zeros((1, 8), np.float32), 16000.0)}
    with pytest.raises(RewardError, match="prompt 'a bell' has audio"):
        build(Aesthetic).score(RewardBatch([sound], ["a bell"], [{}], [0]))


# --------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(("kind", "limit"), [(ClipScore, 77), (PickScore, 77), (HPSv2, 77), (ImageReward, 35)])
def test_a_prompt_is_never_cut_silently(kind: Any, limit: int, build: Build, samples: RewardBatch) -> None:
    with pytest.raises(DataError, match=rf"reads {limit} tokens, and this prompt has \d+: .*a very long") as caught:
        build(kind).score(RewardBatch(samples.media[:2], ["snow", LONG], [{}, {}], [0, 1]))
    assert "long_prompts: truncate" in str(caught.value)


def test_a_prompt_of_just_the_limit_is_read(build: Build, samples: RewardBatch) -> None:
    """One character is one token here; two tokens open and close the text."""
    prompts = ["x" * 75, "x" * 74 + "y"]
    scores = build(PickScore).score(RewardBatch([samples.media[0]] * 2, prompts, [{}, {}], [0, 1]))
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)
    with pytest.raises(DataError, match="has 78"):
        build(PickScore).score(RewardBatch(samples.media[:1], ["x" * 76], [{}], [0]))


@pytest.mark.parametrize("kind", [PickScore, ImageReward])
def test_truncated_by_request_it_is_scored_by_its_beginning(kind: Any, build: Build, samples: RewardBatch) -> None:
    room = {PickScore: 75, ImageReward: 33}[kind]  # words of one token
    prompts = [" ".join("x" * room), " ".join("x" * room + "y" * 40)]
    short, cut = build(kind, long_prompts="truncate").score(
        RewardBatch([samples.media[0]] * 2, prompts, [{}, {}], [0, 1])
    )
    assert cut == pytest.approx(short, abs=1e-5)


# --------------------------------------------------------------------------------------------------------- weights


def test_weights_load_at_the_first_score(clip_folder: Path, samples: RewardBatch, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    (folder / "model.safetensors").write_bytes(b"not weights")
    reward = HPSv2(HPSv2.Config(path=folder, device="cpu"))
    with pytest.raises(ModelError, match=r"weights in .*clip cannot be loaded"):
        reward.score(samples)


def test_missing_weights_are_not_made_up(clip_folder: Path, samples: RewardBatch, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"not a whole CLIPModel: visual_projection\.weight"):
        HPSv2(HPSv2.Config(path=folder, device="cpu")).score(samples)


def test_rewards_on_one_checkpoint_share_its_weights(build: Build, samples: RewardBatch) -> None:
    """A run builds every reward twice, for training and for validation."""
    first, second, third = build(PickScore), build(PickScore), build(ClipScore)
    for reward in (first, second, third):
        reward.score(samples)
    assert first._clip is second._clip is third._clip


def test_weights_are_frozen_and_in_fp32(clip_folder: Path, samples: RewardBatch, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    CLIPModel.from_pretrained(clip_folder, dtype=torch.float16).save_pretrained(folder)
    reward = HPSv2(HPSv2.Config(path=folder, device="cpu"))
    reward.score(samples)
    model = reward._clip._model
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, False)}


def test_pickscore_takes_its_processor_from_another_folder(
    build: Build, clip_folder: Path, samples: RewardBatch, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(clip_folder / name, tmp_path)
    with pytest.raises(ModelError, match=r"no file .*preprocessor_config\.json[\s\S]*processor: "):
        build(PickScore, path=tmp_path)
    apart = build(PickScore, path=tmp_path, processor=clip_folder)
    assert apart.score(samples) == build(PickScore).score(samples)


def test_the_readmes_yaml_is_valid() -> None:
    package = Path(__file__).parents[1]
    text = (package / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    entries = [RewardEntry.model_validate(entry) for entry in yaml.safe_load(block)["reward"]]
    kinds = {"pickscore": PickScore, "hps_v2": HPSv2, "clip_score": ClipScore, "aesthetic": Aesthetic}
    kinds["image_reward"] = ImageReward
    for entry in entries:
        kinds.pop(entry.name).Config.model_validate(entry.options())
    assert kinds == {}


def test_entry_points_resolve() -> None:
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]
    rewards = {name: EntryPoint(name, value, "").load() for name, value in declared["omni_rl.rewards"].items()}
    assert rewards == {kind.files.reward: kind for kind in (Aesthetic, ClipScore, HPSv2, ImageReward, PickScore)}
