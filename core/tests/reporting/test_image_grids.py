from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from omni_rl.reporting.image_grids import before_after, data_uri, grid, still


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def places(sheet: Image.Image, image: np.ndarray, scale: int) -> list[tuple[int, int]]:
    """Where ``image``, every pixel repeated ``scale`` times, stands on the sheet: (top, left) of each."""
    big = image.repeat(scale, axis=0).repeat(scale, axis=1)
    pixels = np.asarray(sheet)
    height, width = big.shape[:2]
    corner = np.argwhere((pixels == big[0, 0]).all(axis=-1))
    return [(y, x) for y, x in corner if np.array_equal(pixels[y : y + height, x : x + width], big)]


def test_a_grid_shows_every_pixel_enlarged():
    images = [noise(5, 9, seed) for seed in range(5)]
    sheet = grid(images, [], columns=3, scale=4)
    found = [places(sheet, image, 4) for image in images]
    assert [len(f) for f in found] == [1] * 5
    (first,), (second,), _, (fourth,), _ = found
    assert first[0] == second[0]
    assert first[1] == fourth[1]
    assert second[1] - first[1] >= 36
    assert fourth[0] - first[0] >= 20


def test_tiny_pictures_are_enlarged_and_large_ones_reduced_by_default():
    assert len(places(grid([noise(32, 64)], [], columns=1), noise(32, 64), scale=2)) == 1
    assert len(places(grid([noise(300, 200)], [], columns=1), noise(300, 200), scale=1)) == 1
    assert grid([noise(2048, 1024)], [], columns=1).height < 480


def test_captions_stand_above_their_picture_and_stay_inside_their_cell():
    white = np.full((64, 128, 3), 255, dtype=np.uint8)
    texts = ["short", "a very long prompt that goes on\nand on and does not end before the cell does", "\u6f22\u5b57"]
    sheet = np.asarray(grid([white] * 3, texts, columns=3, scale=1))
    ink = np.argwhere((sheet < 128).all(axis=-1))
    cells = [ink[(ink[:, 1] >= left) & (ink[:, 1] < left + 134)] for left in (0, 134, 268)]
    assert all(len(cell) > 20 for cell in cells)
    assert ink[:, 0].max() < 25  # captions only in the line above the images
    assert 200 < cells[1][:, 1].max() < 140 + 128  # cut where its cell ends, not much before
    assert (np.asarray(grid([white] * 3, [], columns=3, scale=1)) == 255).all()


def test_before_stands_right_above_after():
    before = [noise(16, 32, seed) for seed in range(3)]
    after = [noise(16, 32, seed + 10) for seed in range(3)]
    sheet = before_after(before, after, ["a", "b", "c"], columns=2)
    tops = []
    for one, two in zip(before, after, strict=True):
        ((top, left),) = places(sheet, one, 4)
        ((below, beside),) = places(sheet, two, 4)
        assert left == beside
        assert 64 <= below - top < 64 + 20
        tops.append(top)
    assert tops[0] == tops[1] < tops[2]


def test_a_video_is_shown_by_its_middle_frame():
    frames = np.stack([noise(8, 8, seed) for seed in range(5)])
    assert np.array_equal(still(frames), frames[2])
    assert still(frames[0]) is not None
    assert len(places(grid([frames], [], columns=1, scale=3), frames[2], 3)) == 1


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_small_pictures_are_embedded_exactly_and_large_ones_reduced():
    assert np.array_equal(np.asarray(decoded(data_uri(noise(32, 64)))), noise(32, 64))
    large = decoded(data_uri(noise(1024, 768)))
    assert large.format == "JPEG"
    assert large.size == (336, 448)
