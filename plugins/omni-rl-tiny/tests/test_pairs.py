"""The shipped pairs are what their script writes, and show what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni_rl_tiny import tiny_qwen_signs
from omni_rl_tiny.pairs import DARK, LIGHT
from omni_rl_tiny.signs import HEIGHT, HELD_OUT, TRAINED, WIDTH, prompt_for

FOLDER = Path(tiny_qwen_signs())


@pytest.mark.parametrize(("name", "numbers"), [("train", TRAINED), ("heldout", HELD_OUT)])
def test_every_number_has_a_light_and_a_dark_sign(name, numbers):
    rows = [json.loads(line) for line in (FOLDER / f"pairs_{name}.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [prompt_for(number) for number in numbers]
    for row in rows:
        chosen, rejected = (np.asarray(Image.open(FOLDER / row[side])) for side in ("chosen", "rejected"))
        assert chosen.shape == rejected.shape == (HEIGHT, WIDTH, 3)
        assert chosen.mean() >= LIGHT
        assert rejected.mean() <= DARK
