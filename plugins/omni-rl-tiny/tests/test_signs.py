"""The prompts' split and the pictures."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import ImageFont

from omni_rl.errors import UserError
from omni_rl_tiny import signs
from omni_rl_tiny.signs import CLEAN, HEIGHT, HELD_OUT, NUMBERS, TRAINED, WIDTH, Style, draw_sign, draw_signs


def test_split_withholds_each_digit_twice_in_either_place() -> None:
    assert len(HELD_OUT) == len(set(HELD_OUT)) == 20
    assert sorted(TRAINED + HELD_OUT) == NUMBERS
    for place in (0, 1):
        assert Counter(number[place] for number in HELD_OUT) == dict.fromkeys("0123456789", 2)
        assert Counter(number[place] for number in TRAINED) == dict.fromkeys("0123456789", 8)


def test_pictures_are_a_function_of_the_seed() -> None:
    style = Style(faint=0.5, cluttered=0.5)
    first, again = (draw_signs(TRAINED, style, np.random.default_rng(3)) for _ in range(2))
    other = draw_signs(TRAINED, style, np.random.default_rng(4))
    assert first.shape == (80, HEIGHT, WIDTH, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def contrast(style: Style) -> np.ndarray:
    pictures = draw_signs(TRAINED, style, np.random.default_rng(0)).astype(float).mean(axis=3)
    return pictures.max(axis=(1, 2)) - pictures.min(axis=(1, 2))


def test_faint_signs_have_a_fraction_of_the_contrast() -> None:
    clean, faint = contrast(CLEAN), contrast(Style(faint=1.0))
    assert clean.min() > 80
    assert faint.mean() < 0.5 * clean.mean()


def test_clutter_adds_ink() -> None:
    def inked(style: Style) -> float:
        pictures = draw_signs(TRAINED, style, np.random.default_rng(0)).astype(float)
        return float(np.mean(np.abs(pictures - pictures[:, :1, :1]).max(axis=3) > 40))

    assert inked(Style(cluttered=1.0)) > inked(CLEAN) + 0.03


def test_missing_font_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cannot open resource")

    monkeypatch.setattr(ImageFont, "truetype", refuse)
    signs._font.cache_clear()
    with pytest.raises(UserError, match="fonts-dejavu-core"):
        draw_sign("42", CLEAN, np.random.default_rng(0))
