from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from omni_rl.contracts.media import Media
from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import RewardError
from omni_rl.rewards.builtin import Brightness, JpegCompressibility


def batch_of(*media: Media) -> RewardBatch:
    n = len(media)
    return RewardBatch([{m.kind: m} for m in media], [f"prompt {i}" for i in range(n)], [{}] * n, list(range(n)))


def image(pixels: np.ndarray) -> Media:
    return Media("image", pixels)


def test_brightness_is_the_mean_pixel() -> None:
    half = np.zeros((4, 6, 3), np.uint8)
    half[:2] = 255
    one_channel = np.zeros((4, 6, 3), np.uint8)
    one_channel[..., 1] = 51  # a fifth of full, in one channel of three
    scores = Brightness(Brightness.Config()).score(batch_of(image(half), image(one_channel), image(half * 0)))
    assert scores == pytest.approx([0.5, 0.2 / 3, 0.0], abs=1e-15)


def test_brightness_of_a_large_white_picture_is_exactly_one() -> None:
    white = np.full((2048, 2048, 3), 255, np.uint8)  # more pixels than fp32 can add up
    assert Brightness(Brightness.Config()).score(batch_of(image(white))) == [1.0]


def test_brightness_of_a_video_is_the_mean_over_frames() -> None:
    frames = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (0, 51, 204)])
    assert Brightness(Brightness.Config()).score(batch_of(Media("video", frames, 8.0))) == pytest.approx([1 / 3])


def test_a_simpler_picture_compresses_better() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    flat = np.full((64, 64, 3), 90, np.uint8)
    noisy_score, flat_score = JpegCompressibility(JpegCompressibility.Config()).score(
        batch_of(image(noise), image(flat))
    )
    assert noisy_score < flat_score < 0


def test_jpeg_compressibility_is_minus_the_file_size_in_units_of_1000_bytes(tmp_path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for quality in (30, 90):
        file = tmp_path / f"{quality}.jpg"
        Image.fromarray(picture).save(file, quality=quality)
        config = JpegCompressibility.Config(quality=quality)
        assert JpegCompressibility(config).score(batch_of(image(picture))) == [-file.stat().st_size / 1000]
    assert JpegCompressibility.Config().quality == 90


def test_jpeg_compressibility_of_a_video_is_the_mean_over_frames() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    frames[1] = 7
    reward = JpegCompressibility(JpegCompressibility.Config())
    singles = reward.score(batch_of(*map(image, frames)))
    assert reward.score(batch_of(Media("video", frames, 8.0))) == pytest.approx([sum(singles) / 3])


@pytest.mark.parametrize("reward", [Brightness, JpegCompressibility])
def test_a_sample_without_pixels_is_an_error_that_says_what_it_holds(reward) -> None:
    sound = Media("audio", np.zeros((1, 16), np.float32), 16000.0)
    with pytest.raises(RewardError, match=r"needs an image or a video.*audio"):
        reward(reward.Config()).score(batch_of(sound))


@pytest.mark.parametrize(("reward", "options"), [(Brightness, {"quality": 3}), (JpegCompressibility, {"quality": 101})])
def test_options_are_checked(reward, options) -> None:
    with pytest.raises(ValidationError):
        reward.Config(**options)
