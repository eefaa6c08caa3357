from __future__ import annotations

import numpy as np
import pytest
from omni_rl.contracts import Media, RewardBatch
from omni_rl.errors import RewardError
from omni_rl_testing.reward import RewardContract

from {{ cookiecutter.module }} import Colourfulness, colourfulness


class TestColourfulness(RewardContract):
    """The inherited contract tests."""

    @pytest.fixture
    def reward(self) -> Colourfulness:
        return Colourfulness(Colourfulness.Config())

    @pytest.fixture
    def samples(self) -> RewardBatch:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, top, (8, 8, 3), np.uint8) for top in (255, 60, 160, 100)]
        media = [{"image": Media("image", image)} for image in images]
        return RewardBatch(media, ["a card"] * 4, [{} for _ in media], [0, 0, 1, 1])


def test_grey_has_no_colour() -> None:
    assert colourfulness(np.full((4, 4, 3), 90, np.uint8)) == 0


def test_half_red_half_blue() -> None:
    """rg is 255 or 0 (mean and deviation 127.5); yb is 127.5 or -255 (mean -63.75, deviation 191.25)."""
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2, 0] = 255
    image[:, 2:, 2] = 255
    expected = (127.5**2 + 191.25**2) ** 0.5 + 0.3 * (127.5**2 + 63.75**2) ** 0.5
    assert colourfulness(image) == pytest.approx(expected)


def test_scale_is_what_scores_one() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 100
    batch = RewardBatch([{"image": Media("image", image)}], ["a card"], [{}], [0])
    config = Colourfulness.Config(scale=colourfulness(image))
    assert Colourfulness(config).score(batch) == [pytest.approx(1)]


def test_audio_is_an_error() -> None:
    batch = RewardBatch([{"audio": Media("audio", np.zeros((1, 8), np.float32), 16000)}], ["a bell"], [{}], [0])
    with pytest.raises(RewardError, match="scores images, and this sample has audio"):
        Colourfulness(Colourfulness.Config()).score(batch)
