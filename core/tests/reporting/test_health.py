from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from omni_rl.reporting.health import colour_entropy, health, reward_figures


def flat(colour: tuple[int, int, int], height: int = 8, width: int = 12) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_diversity_is_the_mean_over_pairs():
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 24, 3), dtype=np.uint8)
    uids = [3, 3, 3, 1, 1, 9, 3]
    within, across = [], []
    for (a, i), (b, j) in itertools.combinations(zip(images, uids, strict=True), 2):
        apart = torch.dist(torch.tensor(a / 255), torch.tensor(b / 255)) / math.sqrt(a.size)
        (within if i == j else across).append(float(apart))
    figures = health(images, uids)
    assert figures["diversity_within"] == pytest.approx(sum(within) / len(within), rel=1e-9)
    assert figures["diversity_across"] == pytest.approx(sum(across) / len(across), rel=1e-9)
    assert len(within) == 7
    assert len(across) == 14


def test_equal_pictures_have_no_diversity_and_black_and_white_all_of_it():
    collapsed = health(np.stack([flat((90, 20, 130))] * 6), [0, 0, 0, 1, 1, 1])
    assert collapsed["diversity_within"] == pytest.approx(0, abs=1e-7)
    assert collapsed["diversity_across"] == pytest.approx(0, abs=1e-7)
    opposite = health(np.stack([flat((0, 0, 0)), flat((255, 255, 255))]), [0, 0])
    assert opposite["diversity_within"] == pytest.approx(1)
    assert "diversity_across" not in opposite


def test_diversity_of_large_pictures_is_about_content_not_grain():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 512, 512, 3), dtype=np.uint8)
    halves = np.stack([flat((0, 0, 0), 512, 512), flat((255, 255, 255), 512, 512)])
    assert health(noise, [0, 0])["diversity_within"] < 0.06
    assert health(halves, [0, 0])["diversity_within"] == pytest.approx(1)


def test_contrast_is_the_deviation_of_luminance_within_a_picture():
    half = flat((0, 0, 0))
    half[:, :6] = 255
    assert health(half[None], [0])["contrast"] == pytest.approx(0.5)
    assert health(np.stack([half, flat((255, 255, 255))]), [0, 1])["contrast"] == pytest.approx(0.25)
    green = flat((0, 0, 0))
    green[:, :6, 1] = 255
    assert health(green[None], [0])["contrast"] == pytest.approx(0.7152 / 2)


def test_colour_entropy_counts_bits():
    assert colour_entropy(flat((255, 255, 255))) == 0
    assert colour_entropy(np.stack([flat((0, 0, 0)), flat((255, 0, 0))])) == pytest.approx(1)
    assert colour_entropy(np.array([[0, 0, 0], [31, 31, 31]], dtype=np.uint8)) == 0  # one cell is 32 levels wide
    assert colour_entropy(np.array([[31, 0, 0], [32, 0, 0]], dtype=np.uint8)) == 1
    every = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)[::4]] * 3), axis=-1)
    assert colour_entropy(every) == pytest.approx(9)
    uniform = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    # Miller-Madow: N samples of a uniform distribution over K cells read (K - 1) / (2 N ln 2) bits too low.
    assert colour_entropy(uniform) == pytest.approx(9 - 511 / (2 * 160_000 * math.log(2)), abs=5e-4)


def test_reward_figures_leave_missing_rewards_out():
    rewards = np.random.default_rng(0).normal(0.5, 0.2, 50)
    figures = reward_figures([*rewards, math.nan])
    known = torch.tensor(rewards)
    assert figures["reward"] == pytest.approx(float(known.mean()))
    assert figures["reward_stderr"] == pytest.approx(float(known.std() / math.sqrt(50)))
    assert reward_figures([0.25]) == {"reward": 0.25}
    assert reward_figures([math.nan]) == {}
