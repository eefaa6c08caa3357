"""The second recogniser: the `tesseract` program. It shares no code, model or training data with PP-OCR."""

from __future__ import annotations

import csv
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from omni_rl.errors import PluginError, RewardError
from omni_rl_ocr.reading import Pixels, Reading, joined


class TesseractReader:
    """Tesseract's LSTM engine, one process per batch.

    Args:
        characters: the only characters that may be read, such as ``0123456789``; None allows all.
        page_mode: tesseract's ``--psm``: 7 is a single line of text, 11 is sparse text anywhere in the image.
        height: images are scaled to this many pixels high before reading.

    Raises:
        PluginError: the program is not installed.
    """

    def __init__(self, characters: str | None = None, page_mode: int = 7, height: int = 64) -> None:
        self._command = ["--psm", str(page_mode)]
        if characters is not None:
            self._command += ["-c", f"tessedit_char_whitelist={characters}"]
        self._height = height
        _tesseract("--version")

    def read(self, images: Sequence[Pixels]) -> list[Reading]:
        """One reading per image, in order."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{row}.png") for row in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                self._scaled(image).save(path)
            listing = Path(folder, "images.txt")
            listing.write_text("".join(f"{path}\n" for path in paths))
            table = _tesseract(str(listing), "stdout", *self._command, "tsv")
        words: dict[int, list[Reading]] = {page: [] for page in range(1, len(images) + 1)}
        for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
            if float(row["conf"]) >= 0:  # -1 marks rows that hold a layout element instead of a word
                words[int(row["page_num"])].append(Reading(row["text"], float(row["conf"]) / 100))
        return [joined(found) for found in words.values()]

    def _scaled(self, image: Pixels) -> Image.Image:
        height, width = image.shape[:2]
        size = (max(1, round(width * self._height / height)), self._height)
        return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def _tesseract(*arguments: str) -> str:
    try:
        done = subprocess.run(["tesseract", *arguments], capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError:
        raise PluginError(
            "the reward 'ocr_tesseract' needs the program `tesseract`, which is not on the PATH",
            "Debian and Ubuntu: apt-get install tesseract-ocr; macOS: brew install tesseract",
        ) from None
    if done.returncode:
        raise RewardError(f"tesseract exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
