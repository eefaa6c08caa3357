"""A small preference set: of two legible signs with the same number, the one on the lighter ground is preferred.

python -m omni_rl_tiny.pairs FOLDER writes pairs_train.jsonl (80 numbers) and pairs_heldout.jsonl (the other 20) with
their images. The ones that ship lie beside the checkpoint ``tiny-qwen-signs``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_rl_tiny.signs import CLEAN, HELD_OUT, TRAINED, draw_sign, prompt_for

DARK, LIGHT = 95.0, 150.0
"""(largest mean brightness of a rejected image, smallest of a chosen image), of 255."""


def write_pairs(folder: Path, seed: int = 0) -> None:
    """Both files and their images, from ``seed`` alone."""
    rng = np.random.default_rng(seed)
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    for name, numbers in (("train", TRAINED), ("heldout", HELD_OUT)):
        rows = [_row(folder, number, rng) for number in numbers]
        (folder / f"pairs_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(folder: Path, number: str, rng: np.random.Generator) -> dict[str, str]:
    sides = {"chosen": _sign(number, LIGHT, 255.0, rng), "rejected": _sign(number, 0.0, DARK, rng)}
    files = {side: f"pairs/{number}_{side}.png" for side in sides}
    for side, picture in sides.items():
        Image.fromarray(picture).save(folder / files[side], optimize=True)
    return {"prompt": prompt_for(number), **files}


def _sign(number: str, least: float, most: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    while True:
        picture = draw_sign(number, CLEAN, rng)
        if least <= picture.mean() <= most:
            return picture


if __name__ == "__main__":
    write_pairs(Path(sys.argv[1]))
