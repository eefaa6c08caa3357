"""Grids of images, for PNG files and for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 6  # pixels between cells
_FONT = 12
_LINE = 18  # height of a caption
_LEAST = 128  # tiny images are enlarged to about this many pixels
_MOST = 448  # large images are reduced to this many pixels in the report
_FRAMES = 4  # number of frames in the strip that shows a video
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def still(media: np.ndarray) -> np.ndarray:
    """One image (H, W, 3): ``media`` itself if it is an image, or the middle frame of a video (F, H, W, 3)."""
    return media if media.ndim == 3 else media[len(media) // 2]


def strip(video: np.ndarray) -> np.ndarray:
    """(H, k W, 3): k <= 4 frames of a video (F, H, W, 3) side by side, from the first to the last."""
    frames = np.linspace(0, len(video) - 1, min(len(video), _FRAMES)).round().astype(int)
    return np.concatenate(video[frames], axis=1)


def grid(images: Sequence[np.ndarray], captions: Sequence[str], columns: int, scale: int | None = None) -> Image.Image:
    """Images in rows of ``columns``, each below its caption.

    Args:
        images: uint8 (H, W, 3), or videos (F, H, W, 3), which are shown by their middle frame; sizes may differ.
        captions: one per image, or an empty list; each is cut to the width of a cell.
        columns: images per row.
        scale: integer factor of enlargement by nearest neighbour, which keeps the pixels of tiny images. Default: the
            longest side becomes about 128 pixels if it is smaller, and 448 if it is larger than 448.
    """
    assert len(captions) in (0, len(images)), (len(captions), len(images))
    stills = [Image.fromarray(still(image)) for image in images]
    longest = max((max(each.size) for each in stills), default=1)
    resized = [_resized(each, scale or _scale(longest)) for each in stills]
    line = _LINE if captions else 0
    width = max((each.width for each in resized), default=1) + _GAP
    height = max((each.height for each in resized), default=1) + _GAP + line
    rows = -(-len(resized) // columns)
    sheet = Image.new("RGB", (min(columns, len(resized)) * width + _GAP, rows * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, each in enumerate(resized):
        left, top = _GAP + index % columns * width, _GAP + index // columns * height
        if captions:
            draw.text(
                (left, top), _fitted(captions[index], width - _GAP), fill=_INK, font=ImageFont.load_default(_FONT)
            )
        sheet.paste(each, (left, top + line))
    return sheet


def before_after(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], captions: Sequence[str], columns: int = 8
) -> Image.Image:
    """Rows of ``before`` images, each above the row of its ``after`` images.

    Image i of both has ``captions[i]`` and the same noise.
    """
    assert before, "nothing to show"
    assert len(before) == len(after) == len(captions), (len(before), len(after), len(captions))
    bands = []
    for start in range(0, len(before), columns):
        chosen = slice(start, start + columns)
        bands.append(grid(before[chosen], captions[chosen], columns))
        bands.append(grid(after[chosen], [], columns))
    gaps = [0 if index % 2 else 2 * _GAP for index in range(len(bands))]  # space above each pair of rows only
    sheet = Image.new("RGB", (max(band.width for band in bands), sum(b.height for b in bands) + sum(gaps)), _PAPER)
    top = 0
    for band, gap in zip(bands, gaps, strict=True):
        sheet.paste(band, (0, top + gap))
        top += gap + band.height
    return sheet


def data_uri(image: np.ndarray) -> str:
    """An image for an HTML page: a small image exactly (PNG), a large one reduced and as JPEG."""
    shown = Image.fromarray(still(image))
    exact = max(shown.size) <= _LEAST
    shown.thumbnail((_MOST, _MOST))
    buffer = io.BytesIO()
    if exact:
        shown.save(buffer, "PNG", optimize=True)
    else:
        shown.save(buffer, "JPEG", quality=88)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _scale(longest: int) -> float:
    return _MOST / longest if longest > _MOST else max(1, round(_LEAST / longest))


def _resized(image: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _fitted(text: str, width: int) -> str:
    """The text on one line, cut to at most ``width`` pixels."""
    font = ImageFont.load_default(_FONT)
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
