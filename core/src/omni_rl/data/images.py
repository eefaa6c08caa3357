"""Reads an image file. What it says of itself (depth, palette, alpha, profile, rotation) is honoured or refused."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from omni_rl.contracts.input_files import MEDIUM, require_regular
from omni_rl.errors import DataError, UserError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that Pillow decodes itself. Others, such as EPS, would start another program."""

PIXELS = 128 * 1024**2
"""Most pixels of an image."""

_ONE_PICTURE = ("JPEG", "MPO")
"""Formats of cameras, whose further pictures are previews."""


def load_image(file: Path) -> Image.Image:
    """An image in RGB with 8 bits, rotated as its EXIF orientation says.

    Depths of 16 bits are scaled, transparent parts are laid over white, and colours of an embedded profile become sRGB.

    Raises:
        DataError: it cannot be read, holds several pictures, or has pixels without a known scale.
    """
    require_regular(file, MEDIUM)
    with reading(file, "image"), Image.open(file, formats=_formats()) as opened:
        _check(file, opened)
        opened.load()
        return in_rgb(file, ImageOps.exif_transpose(opened), opened.format)


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def reading(file: Path, kind: str) -> Iterator[None]:
    """Around a decoder: whatever it raises becomes one sentence.

    Raises:
        DataError: in place of any exception that is no error of the user already.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning about size or tags is no reason to stop, or to be shown
            yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many(file) from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
        raise DataError(f"{file} is not a readable {kind}: {reason}", "replace the file, or remove its row") from error


def _check(file: Path, opened: Image.Image) -> None:
    if opened.width * opened.height > PIXELS:
        raise _too_many(file)
    if opened.format not in _ONE_PICTURE and getattr(opened, "n_frames", 1) > 1:
        raise DataError(f"{file} holds {getattr(opened, 'n_frames', 0)} pictures, not one", "save the one you mean")


def _too_many(file: Path) -> DataError:
    what = f"{file} is not a readable image: it has more than {PIXELS // 1024**2} million pixels"
    return DataError(what, "save a smaller image")


def in_rgb(file: Path, image: Image.Image, form: str | None) -> Image.Image:
    """An image in RGB with 8 bits, from any mode that has a scale.

    Args:
        form: the file's format. Older releases of Pillow read 16 bits of PNG and PPM as 32.

    Raises:
        DataError: its pixels are floats or 32-bit numbers, whose brightest value no file tells.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        deep = np.asarray(image).astype(np.float64) / 257  # 65535 / 255
        return Image.fromarray(deep.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floating-point numbers"
        raise DataError(f"{file} has pixels of {kind}, and does not say which is white", "save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _over_white(_in_srgb(image.convert("RGBA"), image.info.get("icc_profile")))
    return _in_srgb(image, image.info.get("icc_profile")).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in the colours of sRGB, if its profile is of its own kind of colours."""
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=target)
    except (ImageCms.PyCMSError, OSError):  # a damaged profile says nothing, and viewers ignore it
        return image
    return image if converted is None else converted
