"""Tiny random models of the real classes, and pictures and prompts to score."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_rl.contracts.media import Media
from omni_rl.contracts.reward import RewardBatch
from omni_rl_preference_rewards import Aesthetic, ImageReward, tiny

sys.path.insert(0, str(Path(__file__).parent))  # published_models

PROMPTS = ["a red card", "a dark night by the sea", "snow", "two blue birds", "snow", "7 boats"]
SIZES = [(48, 64), (64, 48), (32, 32), (97, 51), (40, 40), (33, 60)]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def head_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_head(tmp_path_factory.mktemp("head") / "aesthetic.safetensors")


@pytest.fixture(scope="session")
def image_reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_image_reward(tmp_path_factory.mktemp("image-reward"))


@pytest.fixture(scope="session")
def samples() -> RewardBatch:
    """Six noisy pictures of different sizes."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    media = [{"image": Media("image", picture)} for picture in pictures]
    return RewardBatch(media, PROMPTS, [{} for _ in media], [0, 0, 1, 1, 2, 2])


@pytest.fixture(scope="session")
def build(clip_folder: Path, head_file: Path, image_reward_folder: Path) -> Callable[..., Any]:
    """``build(PickScore, scale="unit")``: the reward on its tiny model, on the CPU."""
    paths = {Aesthetic: {"path": clip_folder, "head": head_file}, ImageReward: {"path": image_reward_folder}}

    built = []  # as long as they are held, further rewards on the same weights need not load them again

    def make(kind: Any, **options: Any) -> Any:
        built.append(kind(kind.Config(**{"device": "cpu", **paths.get(kind, {"path": clip_folder}), **options})))
        return built[-1]

    return make
