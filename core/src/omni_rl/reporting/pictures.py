"""Grids of pictures, as PNG files and inside the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 6  # pixels between cells
_FONT = 12
_LINE = 18  # height of a caption
_LEAST = 128  # tiny pictures are enlarged to about this many pixels
_MOST = 448  # large ones are reduced to this in the report
_FRAMES = 4  # of a video, where it is shown as a strip
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def still(media: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) that stands for ``media``: itself, or the middle frame of a video (F, H, W, 3)."""
    return media if media.ndim == 3 else media[len(media) // 2]


def strip(video: np.ndarray) -> np.ndarray:
    """(H, k W, 3): up to four frames of a video (F, H, W, 3) side by side, the first and the last among them."""
    chosen = np.linspace(0, len(video) - 1, min(len(video), _FRAMES)).round().astype(int)
    return np.concatenate(video[chosen], axis=1)


def grid(images: Sequence[np.ndarray], captions: Sequence[str], columns: int, scale: int | None = None) -> Image.Image:
    """Pictures in rows of ``columns``, each under its caption.

    Args:
        images: uint8 (H, W, 3), or videos (F, H, W, 3) shown by their middle frame; sizes may differ.
        captions: one per image, or none at all; cut to the width of a cell.
        columns: pictures per row.
        scale: whole factor of enlargement, by nearest neighbour so that tiny pictures stay what they are; default:
            the longest side becomes about 128 pixels when it is smaller, and 448 when it is larger than that.
    """
    assert len(captions) in (0, len(images)), (len(captions), len(images))
    stills = [Image.fromarray(still(image)) for image in images]
    longest = max((max(picture.size) for picture in stills), default=1)
    pictures = [_resized(picture, scale or _scale(longest)) for picture in stills]
    line = _LINE if captions else 0
    width = max((picture.width for picture in pictures), default=1) + _GAP
    height = max((picture.height for picture in pictures), default=1) + _GAP + line
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * width + _GAP, rows * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = _GAP + index % columns * width, _GAP + index // columns * height
        if captions:
            draw.text(
                (left, top), _fitted(captions[index], width - _GAP), fill=_INK, font=ImageFont.load_default(_FONT)
            )
        sheet.paste(picture, (left, top + line))
    return sheet


def before_after(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], captions: Sequence[str], columns: int = 8
) -> Image.Image:
    """Bands of a ``before`` row over its ``after`` row; picture i of both has ``captions[i]`` and equal noise."""
    assert before, "nothing to show"
    assert len(before) == len(after) == len(captions), (len(before), len(after), len(captions))
    bands = []
    for start in range(0, len(before), columns):
        chosen = slice(start, start + columns)
        bands.append(grid(before[chosen], captions[chosen], columns))
        bands.append(grid(after[chosen], [], columns))
    gaps = [0 if index % 2 else 2 * _GAP for index in range(len(bands))]  # wide above a band, none inside it
    sheet = Image.new("RGB", (max(band.width for band in bands), sum(b.height for b in bands) + sum(gaps)), _PAPER)
    top = 0
    for band, gap in zip(bands, gaps, strict=True):
        sheet.paste(band, (0, top + gap))
        top += gap + band.height
    return sheet


def data_uri(image: np.ndarray) -> str:
    """A picture for an HTML page: small ones exact (PNG), large ones reduced and as JPEG."""
    picture = Image.fromarray(still(image))
    exact = max(picture.size) <= _LEAST
    picture.thumbnail((_MOST, _MOST))
    buffer = io.BytesIO()
    if exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=88)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _scale(longest: int) -> float:
    return _MOST / longest if longest > _MOST else max(1, round(_LEAST / longest))


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _fitted(text: str, width: int) -> str:
    """One line of text that is at most ``width`` pixels wide."""
    font = ImageFont.load_default(_FONT)
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
