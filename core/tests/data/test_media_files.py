"""Files to what diffusers takes, and clips to files that people can play."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni_rl.contracts.media import Media
from omni_rl.data import media_files
from omni_rl.errors import DataError
from omni_rl.reporting import video_files


def gradient(height: int, width: int, frames: int) -> np.ndarray:
    """(F, H, W, 3) uint8: smooth, so that a codec keeps it; each frame darker than the one before."""
    ramp = np.linspace(200, 60, frames)[:, None, None, None] + np.linspace(0, 40, width)[None, None, :, None]
    return np.broadcast_to(ramp, (frames, height, width, 3)).astype(np.uint8)


def test_a_picture_is_upright_and_in_rgb(tmp_path: Path):
    lying = Image.new("RGB", (8, 4))
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=exif)
    Image.new("L", (8, 4)).save(tmp_path / "grey.png")
    assert media_files.load_image(tmp_path / "lying.jpg").size == (4, 8)
    assert media_files.load_image(tmp_path / "grey.png").mode == "RGB"
    names = {"image": str(tmp_path / "lying.jpg"), "mask": [str(tmp_path / "grey.png")] * 2}
    assert media_files.form(names) == (("image", (4, 8)), ("mask", ((8, 4), (8, 4))))
    assert [p.size for p in media_files.load(names)["mask"]] == [(8, 4), (8, 4)]


def test_what_is_no_picture_is_named(tmp_path: Path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png is not a readable image"):
        media_files.load({"image": str(tmp_path / "text.png")})


def test_a_clip_is_a_list_of_its_frames(tmp_path: Path):
    frames = [Image.fromarray(f) for f in gradient(8, 8, 3)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    loaded = media_files.load({"video": str(tmp_path / "clip.gif")})["video"]
    assert [f.size for f in loaded] == [(8, 8)] * 3
    assert media_files.form({"video": str(tmp_path / "clip.gif")}) == (("video", (8, 8, 3)),)


def test_a_clip_is_written_and_read_back(tmp_path: Path):
    """Odd sizes lose a row; colours come back to within what the codec rounds."""
    pytest.importorskip("av")
    video = gradient(33, 48, 6)
    sound = Media("audio", np.sin(np.arange(8000, dtype=np.float32) / 20)[None].repeat(2, 0), 16000.0)
    video_files.write(tmp_path / "clip.mp4", {"video": Media("video", video, 12.0), "audio": sound})
    back = np.stack([np.asarray(f) for f in media_files.load_frames(tmp_path / "clip.mp4")])
    assert back.shape == (6, 32, 48, 3)
    assert np.abs(back.astype(int) - video[:, :32]).mean() < 4


def test_frames_and_sound_keep_their_rates(tmp_path: Path):
    av = pytest.importorskip("av")
    sound = Media("audio", np.zeros((1, 4000), np.float32), 8000.0)
    video_files.write(tmp_path / "clip.mp4", {"video": Media("video", gradient(16, 16, 4), 8.0), "audio": sound})
    with av.open(str(tmp_path / "clip.mp4")) as file:
        assert float(file.streams.video[0].average_rate) == 8.0
        assert file.streams.audio[0].rate == 8000


def test_what_is_no_clip_is_named(tmp_path: Path):
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("no clip")
    with pytest.raises(DataError, match=r"text\.mp4 is not a readable video"):
        media_files.load_frames(tmp_path / "text.mp4")
