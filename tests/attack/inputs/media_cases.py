"""Image and video files for an editing pipeline: every kind that cameras and programs write, and damaged ones."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from cases import BASE, Case, Verdict, text_of
from hypothesis import strategies as st
from PIL import Image

SIZE = (32, 32)
EDIT = {"height": 32, "width": 32, "max_area": 1024, "max_sequence_length": 48, "_auto_resize": False}


@cache
def pixels() -> np.ndarray:
    """A gradient, (H, W, 3) uint8."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    return np.stack([x * 8, y * 8, (x + y) * 4], -1).astype(np.uint8)


def image(mode: str = "RGB") -> Image.Image:
    """The gradient in any mode of Pillow."""
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(Image.fromarray(pixels()).convert("L"))
        return Image.fromarray(grey.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 257)
    return Image.fromarray(pixels()).convert(mode)


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """The bytes of a file."""
    stream = io.BytesIO()
    image(mode).save(stream, format=form, **options)
    return stream.getvalue()


def _rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved("JPEG", exif=exif)


def _frames(form: str, count: int, **options: Any) -> bytes:
    stream = io.BytesIO()
    rest = [Image.fromarray(np.roll(pixels(), i, 0)) for i in range(1, count)]
    image().save(stream, format=form, save_all=True, append_images=rest, **options)
    return stream.getvalue()


def png_of(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says anything."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


IMAGES: Mapping[str, tuple[str, Callable[[], bytes], Verdict]] = {
    "PNG": ("a.png", lambda: saved("PNG"), "trains"),
    "JPEG": ("a.jpg", lambda: saved("JPEG"), "trains"),
    "WebP": ("a.webp", lambda: saved("WEBP"), "trains"),
    "lossless WebP": ("a.webp", lambda: saved("WEBP", lossless=True), "trains"),
    "BMP": ("a.bmp", lambda: saved("BMP"), "trains"),
    "TIFF": ("a.tif", lambda: saved("TIFF"), "trains"),
    "JPEG 2000": ("a.jp2", lambda: saved("JPEG2000"), "trains"),
    "PPM": ("a.ppm", lambda: saved("PPM"), "trains"),
    "TGA": ("a.tga", lambda: saved("TGA"), "trains"),
    "GIF of one frame": ("a.gif", lambda: saved("GIF"), "either"),
    "alpha": ("a.png", lambda: saved("PNG", "RGBA"), "trains"),
    "grey": ("a.png", lambda: saved("PNG", "L"), "trains"),
    "grey with alpha": ("a.png", lambda: saved("PNG", "LA"), "trains"),
    "one bit": ("a.png", lambda: saved("PNG", "1"), "trains"),
    "palette": ("a.png", lambda: saved("PNG", "P"), "trains"),
    "palette with transparency": ("a.png", lambda: saved("PNG", "P", transparency=0), "trains"),
    "16 bits": ("a.png", lambda: saved("PNG", "I;16"), "trains"),
    "16 bits of RGB": ("a.png", lambda: png_of(32, 32, (b"\0" + bytes(32 * 6)) * 32, 16), "trains"),
    "interlaced": ("a.png", lambda: saved("PNG", interlace=1), "trains"),
    "CMYK": ("a.jpg", lambda: saved("JPEG", "CMYK"), "trains"),
    "YCbCr": ("a.tif", lambda: saved("TIFF", "YCbCr"), "either"),  # releases of Pillow differ
    "Lab": ("a.tif", lambda: saved("TIFF", "LAB"), "either"),
    "floats": ("a.tif", lambda: saved("TIFF", "F"), "refused"),
    "32 bits": ("a.tif", lambda: saved("TIFF", "I"), "refused"),
    "progressive": ("a.jpg", lambda: saved("JPEG", progressive=True), "trains"),
    "quality 1": ("a.jpg", lambda: saved("JPEG", quality=1), "trains"),
    **{f"EXIF orientation {i}": (f"a{i}.jpg", lambda i=i: _rotated(i), "trains") for i in (1, 3, 6, 8)},  # type: ignore[misc]
    "EXIF orientation 99": ("a.jpg", lambda: _rotated(99), "trains"),
    "a damaged profile": ("a.jpg", lambda: saved("JPEG", icc_profile=b"not a profile" * 20), "trains"),
    "capital suffix": ("A.PNG", lambda: saved("PNG"), "trains"),
    "no suffix": ("a", lambda: saved("PNG"), "trains"),
    "a JPEG named png": ("a.png", lambda: saved("JPEG"), "trains"),
    "a PNG named jpg": ("a.jpg", lambda: saved("PNG"), "trains"),
    "a PNG named mp4": ("a.mp4", lambda: saved("PNG"), "either"),
    "animated WebP": ("a.webp", lambda: _frames("WEBP", 3), "refused"),
    "animated PNG": ("a.png", lambda: _frames("PNG", 3), "refused"),
    "pages of a TIFF": ("a.tif", lambda: _frames("TIFF", 3), "refused"),
    "MPO": ("a.mpo", lambda: _frames("MPO", 2), "either"),
    "a bomb": ("a.png", lambda: png_of(60_000, 60_000), "refused"),
    "a bomb of 2 GB": ("a.png", lambda: png_of(2**31 - 1, 2**31 - 1), "refused"),
    "a real bomb": ("a.png", lambda: png_of(30_000, 30_000, bytes(30_000 * 3000), 8, 0), "refused"),
    "no width": ("a.png", lambda: png_of(0, 32), "refused"),
    "no data": ("a.png", lambda: png_of(32, 32), "refused"),
    "too little data": ("a.png", lambda: png_of(32, 32, bytes(97 * 3)), "either"),
    "odd depth": ("a.png", lambda: png_of(32, 32, bytes(3104), 7), "refused"),
    "empty": ("a.png", lambda: b"", "refused"),
    "zeros": ("a.png", lambda: bytes(5000), "refused"),
    "text": ("a.png", lambda: b"a red card\n", "refused"),
    "HTML": ("a.jpg", lambda: b"<!DOCTYPE html><html>404</html>", "refused"),
    "SVG": ("a.svg", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "refused"),
    "EPS": ("a.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n", "refused"),
    "EPS named png": ("a.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n", "refused"),
    "PDF": ("a.pdf", lambda: b"%PDF-1.4\n", "refused"),
    "a pointer of Git LFS": ("a.png", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "refused"),
    "one pixel": ("a.png", lambda: png_of(1, 1, bytes(4)), "either"),
    "a line": ("a.png", lambda: png_of(2000, 1, bytes(6001)), "either"),
}

PLACES: Mapping[str, tuple[Any, Verdict]] = {
    "a folder": (".", "refused"),
    "nothing": ("", "refused"),
    "a name that is not there": ("b.png", "refused"),
    "5,000 characters": ("n" * 5000, "refused"),
    "a long path": ("n/" * 3000, "refused"),
    "NUL": ("a\0.png", "refused"),
    "a device": ("/dev/zero", "refused"),
    "a process's memory": ("/proc/self/mem", "refused"),
    "a URL": ("https://example.com/a.png", "refused"),
    "a number": (7, "refused"),
    "null": (None, "refused"),
    "a list": ([], "refused"),
    "a list of lists": ([["a.png"]], "refused"),
    "a mapping": ({"bytes": "x", "path": "a.png"}, "refused"),
    "a list of one": (["a.png"], "either"),
    "a file of text": ("prompts.txt", "refused"),
    "a path with dots": ("./././a.png", "trains"),
}


def _case(name: str, data: bytes, what: str, verdict: Verdict = "either", source: Any = None) -> Case:
    rows = b"".join(
        json.dumps({"prompt": prompt, "source": name if source is None else source}).encode() + b"\n"
        for prompt in ("hello", "world")
    )
    config = {
        **BASE,
        "model": {"path": "model", "lora": {"rank": 2}},
        "rollout": {**BASE["rollout"], "call": EDIT},
        "data": {"path": "p.jsonl", "media": {"image": "source"}},
    }
    files = {name: data, "p.jsonl": rows, "run.yaml": text_of(config).encode()}
    return Case(f"{name}: {what}", files, verdict=verdict, model="edit")


def fixed() -> Sequence[Case]:
    """Every kind of image, and every kind of place, once."""
    kinds = [_case(name, make(), what, verdict) for what, (name, make, verdict) in IMAGES.items()]
    odd = [_case("a.png", saved("PNG"), what, v, source) for what, (source, v) in PLACES.items() if source is not None]
    return [*kinds, *odd, *(_case(name, data, what, v) for what, (name, data, v) in clips().items())]


@st.composite
def damaged(draw: st.DrawFn) -> Case:
    """A file of any format that is cut, or has other bytes somewhere."""
    form, name = draw(
        st.sampled_from(
            [
                ("PNG", "a.png"),
                ("JPEG", "a.jpg"),
                ("WEBP", "a.webp"),
                ("GIF", "a.gif"),
                ("TIFF", "a.tif"),
                ("BMP", "a.bmp"),
                ("JPEG2000", "a.jp2"),
                ("TGA", "a.tga"),
                ("PPM", "a.ppm"),
                ("MP4", "a.mp4"),
            ]
        )
    )
    data = clip() if form == "MP4" else saved(form)
    place, kind = draw(st.integers(0, len(data) - 1)), draw(st.sampled_from(["cut", "byte", "zeros", "twice", "noise"]))
    new = {
        "cut": data[:place],
        "byte": data[:place] + draw(st.binary(min_size=1, max_size=4)) + data[place + 1 :],
        "zeros": data[:place] + bytes(len(data) - place),
        "twice": data[:place] + data,
        "noise": data + draw(st.binary(max_size=20)),
    }[kind]
    return _case(name, new, f"{kind} at {place} of {len(data)}")


@cache
def clip(count: int = 3, form: str = "mp4", codec: str = "mpeg4", rate: int = 8, size: tuple[int, int] = SIZE) -> bytes:
    """A short video."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=form) as out:
        track = out.add_stream(codec, rate=Fraction(rate))
        track.width, track.height, track.pix_fmt = *size, "yuv420p"
        for i in range(count):
            picture = np.resize(np.roll(pixels(), i, 0), (size[1], size[0], 3))
            out.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(track.encode())
    return stream.getvalue()


def _sound() -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="wav") as out:
        track = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(track.encode(frame))
        out.mux(track.encode())
    return stream.getvalue()


def clips() -> Mapping[str, tuple[str, bytes, Verdict]]:
    """Videos and sounds in place of an image: a pipeline may take a list of frames or refuse it."""
    return {
        "a clip": ("a.mp4", clip(), "either"),
        "a clip of one frame": ("a.mp4", clip(1), "either"),
        "a clip of 300 frames": ("a.mp4", clip(300), "either"),
        "a clip in Matroska": ("a.mkv", clip(3, "matroska"), "either"),
        "a clip named png": ("a.png", clip(), "refused"),
        "sound": ("a.wav", _sound(), "refused"),
        "sound named mp4": ("a.mp4", _sound(), "refused"),
        "an empty clip": ("a.mp4", b"", "refused"),
        "half a clip": ("a.mp4", clip()[: len(clip()) // 2], "refused"),
        "a GIF clip": ("a.gif", _frames("GIF", 3, duration=100), "either"),
        "a GIF with pauses": ("a.gif", _frames("GIF", 4, duration=[10, 500, 10, 10]), "refused"),
        "a list of clips": ("a.list", b"ffconcat version 1.0\nfile '/etc/passwd'\n", "refused"),
        "a list named mp4": ("a.mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n", "refused"),
        "a playlist": ("a.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "refused"),
        "text as a clip": ("a.mp4", b"a red card\n", "refused"),
    }


def media(models: Mapping[str, Path]) -> st.SearchStrategy[Case]:
    """Damaged files."""
    del models
    return damaged()
