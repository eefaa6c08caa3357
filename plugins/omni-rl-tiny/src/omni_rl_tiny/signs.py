"""Signs with two-digit numbers: the prompts, their split, and the images to pretrain on."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from omni_rl.errors import UserError

WIDTH, HEIGHT = 64, 32  # pixels

NUMBERS = [f"{number:02d}" for number in range(100)]

# 3 has no factor in common with 10, so each digit is withheld exactly twice as tens and twice as units.
HELD_OUT = sorted(f"{tens}{(3 * tens + offset) % 10}" for tens in range(10) for offset in (1, 6))
"""20 numbers that neither pretraining nor RL sees; every digit is seen in either place, the pair is not."""

TRAINED = [number for number in NUMBERS if number not in HELD_OUT]
"""The other 80."""

_PALETTE = (
    (200, 40, 40),
    (215, 105, 30),
    (230, 180, 40),
    (110, 150, 40),
    (30, 110, 60),
    (30, 140, 160),
    (80, 150, 215),
    (40, 70, 180),
    (120, 50, 140),
    (205, 90, 150),
    (110, 75, 50),
    (225, 225, 225),
    (130, 130, 130),
    (40, 40, 40),
)
_SHADE = 15  # how far each colour component strays from the palette
_FONT = "DejaVuSans-Bold.ttf"
_FONT_SIZES = (29, 31)  # pixels, inclusive


def prompt_for(number: str) -> str:
    """The prompt that asks for a sign with ``number``."""
    return f'a sign that says "{number}"'


@dataclass(frozen=True)
class Style:
    """What is wrong with the images: shares in [0, 1] that are hard to read.

    Attributes:
        faint: share with 10 to 40 % of the full contrast.
        cluttered: share crossed by three to six strokes in the colour of the ink.
    """

    faint: float = 0.0
    cluttered: float = 0.0


CLEAN = Style()
FAULTY = Style(faint=0.6, cluttered=0.9)


def draw_sign(number: str, style: Style, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image (HEIGHT, WIDTH, 3) RGB of ``number``: random ground, white or black ink, slightly off centre."""
    ground = np.clip(np.array(_PALETTE[rng.integers(len(_PALETTE))]) + rng.integers(-_SHADE, _SHADE + 1, 3), 0, 255)
    luminance = ground @ (0.299, 0.587, 0.114)
    ink = np.full(3, 250.0 if luminance < 128 else 10.0)
    if rng.random() < style.faint:
        ink = ground + (ink - ground) * rng.uniform(0.1, 0.4)
    picture = Image.new("RGB", (WIDTH, HEIGHT), _rgb(ground))
    draw = ImageDraw.Draw(picture)
    centre = (WIDTH / 2 + rng.uniform(-1, 1), HEIGHT / 2 + rng.uniform(-1, 1))
    size = int(rng.integers(_FONT_SIZES[0], _FONT_SIZES[1] + 1))
    draw.text(centre, number, fill=_rgb(ink), font=_font(size), anchor="mm")
    if rng.random() < style.cluttered:
        for _ in range(rng.integers(3, 7)):
            ends = rng.uniform((0, 0, 0, 0), (WIDTH, HEIGHT, WIDTH, HEIGHT))
            draw.line(ends.tolist(), fill=_rgb(ink), width=int(rng.integers(2, 5)))
    return np.asarray(picture)


def draw_signs(numbers: list[str], style: Style, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, HEIGHT, WIDTH, 3) RGB, one image per entry of ``numbers``."""
    return np.stack([draw_sign(number, style, rng) for number in numbers])


def _rgb(colour: NDArray[np.number[Any]]) -> tuple[int, int, int]:
    red, green, blue = (int(component) for component in colour)
    return red, green, blue


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    for candidate in (_FONT, *_matplotlib_font()):
        try:
            return ImageFont.truetype(candidate, size)
        except OSError:
            continue
    raise UserError(
        f"drawing signs needs the font {_FONT}, which is not among the system's fonts",
        "Debian and Ubuntu: apt-get install fonts-dejavu-core; anywhere: pip install matplotlib, which carries it",
    )


def _matplotlib_font() -> list[str]:
    """The font's place in an installed matplotlib, without importing it."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return []
    return [str(Path(spec.origin).with_name("mpl-data") / "fonts" / "ttf" / _FONT)]
