"""What an image or a video says of itself is honoured or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni_rl.data import media_files
from omni_rl.data.videos import _uneven
from omni_rl.errors import DataError


def middle(file: Path) -> tuple[int, ...]:
    image = media_files.load_image(file)
    return image.getpixel((image.width // 2, image.height // 2))


def test_sixteen_bits_are_scaled(tmp_path: Path):
    for name in ("a.png", "a.tiff"):
        Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(tmp_path / name)
        assert middle(tmp_path / name) == (128, 128, 128)


def test_floats_and_32_bits_are_refused(tmp_path: Path):
    for dtype in (np.float32, np.int32):
        Image.fromarray(np.full((4, 4), 1, dtype)).save(tmp_path / "a.tiff")
        with pytest.raises(DataError, match="does not say which is white"):
            media_files.load_image(tmp_path / "a.tiff")


def test_transparent_parts_are_white(tmp_path: Path):
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (10, 20, 30, 255)).save(tmp_path / "opaque.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "hole.png", transparency=1)
    assert middle(tmp_path / "clear.png") == (255, 255, 255)
    assert middle(tmp_path / "opaque.png") == (10, 20, 30)
    assert middle(tmp_path / "palette.png") == (200, 100, 50)
    assert middle(tmp_path / "hole.png") == (255, 255, 255)


def test_cmyk_becomes_rgb(tmp_path: Path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.tiff")
    assert middle(tmp_path / "red.tiff") == (255, 0, 0)


def test_several_pictures_are_refused(tmp_path: Path):
    pages = [Image.new("RGB", (4, 4), (i, i, i)) for i in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="holds 3 pictures"):
        media_files.load_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "text.gif", "pipe.png", "script.eps"])
def test_what_cannot_be_decoded_is_one_sentence(tmp_path: Path, name: str):
    if name.startswith("cut"):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
    elif name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match=name):
        media_files.verify(str(tmp_path / name))


def test_a_decompression_bomb_is_refused(tmp_path: Path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="more than 128 million pixels"):
        media_files.load_image(tmp_path / "bomb.png")


def test_times_of_frames(tmp_path: Path):
    assert not _uneven([0, 41, 83, 125, 166])  # 24 frames a second in whole milliseconds
    assert not _uneven([])
    assert _uneven([0, 40, 80, 200, 240])
    frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in (0, 80, 160, 240)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[20, 200, 20, 20])
    with pytest.raises(DataError, match="unequal times"):
        media_files.load_frames(tmp_path / "a.gif")
