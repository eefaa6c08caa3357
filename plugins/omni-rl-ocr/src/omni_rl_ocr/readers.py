"""Recognisers: pictures in, text and confidence out."""

from __future__ import annotations

import csv
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_rl.errors import PluginError, RewardError

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

_LINE_HEIGHT = 48  # pixels, the input height of PP-OCR recognisers
_NARROWEST = 16  # pixels; the recogniser's stride makes a single column of features of less
_BATCH = 16


@dataclass(frozen=True)
class Reading:
    """Text as the recogniser wrote it, and its own confidence in [0, 1] (0 when it read nothing)."""

    text: str
    confidence: float


class RapidReader:
    """PP-OCRv4 from the rapidocr-onnxruntime wheel: models included, no network.

    Args:
        detect: find text lines first, then read each (whole scenes). Off: the whole picture is one line of text.
        width: recogniser input width in pixels at a height of 48; None keeps each picture's aspect ratio.
        threads: onnxruntime threads; None lets onnxruntime decide.
    """

    def __init__(self, detect: bool = False, width: int | None = None, threads: int | None = None) -> None:
        from rapidocr_onnxruntime import RapidOCR

        # RapidOCR ignores a number above the machine's without a word.
        count = -1 if threads is None else min(threads, os.cpu_count() or 1)
        self._engine = RapidOCR(intra_op_num_threads=count, inter_op_num_threads=1)
        self._engine.text_rec.rec_batch_num = _BATCH
        if not detect:
            # Lines narrower than this are padded; the default of 320 would cost 3x the time for a 2:1 picture.
            self._engine.text_rec.rec_image_shape = [3, _LINE_HEIGHT, _NARROWEST]
        self._detect = detect
        self._width = width

    def read(self, pictures: Sequence[Picture]) -> list[Reading]:
        """One reading per picture, in order. A reading does not depend on the other pictures."""
        if self._detect:
            return [self._read_scene(picture) for picture in pictures]
        return self._read_lines([self._line(picture) for picture in pictures])

    def _line(self, picture: Picture) -> Picture:
        """(48, width, 3) BGR, as PP-OCR was trained."""
        height, width = picture.shape[:2]
        wide = self._width or max(_NARROWEST, round(width * _LINE_HEIGHT / height))
        scaled = Image.fromarray(picture).resize((wide, _LINE_HEIGHT), Image.Resampling.BICUBIC)
        return np.asarray(scaled)[:, :, ::-1]

    def _read_lines(self, lines: list[Picture]) -> list[Reading]:
        readings: dict[int, Reading] = {}
        # Only equal sizes share a batch: the recogniser pads to the widest, which would change the others' readings.
        for shape in {line.shape for line in lines}:
            rows = [row for row, line in enumerate(lines) if line.shape == shape]
            found, _ = self._engine.text_rec([lines[row] for row in rows])
            readings.update(zip(rows, (_reading([entry]) for entry in found), strict=True))
        return [readings[row] for row in range(len(lines))]

    def _read_scene(self, picture: Picture) -> Reading:
        found, _ = self._engine(np.ascontiguousarray(picture[:, :, ::-1]))
        return _reading([(text, confidence) for _, text, confidence in found or []])


def _reading(parts: list[tuple[str, Any]]) -> Reading:
    """Lines joined by spaces; the confidence is their mean."""
    parts = [(text.strip(), float(confidence)) for text, confidence in parts if text.strip()]
    if not parts:
        return Reading("", 0.0)
    return Reading(" ".join(text for text, _ in parts), sum(confidence for _, confidence in parts) / len(parts))


class TesseractReader:
    """The `tesseract` program (LSTM engine), one process per batch. Shares no code, model or data with RapidOCR.

    Args:
        characters: the only characters that may be read, such as ``0123456789``; None allows all.
        page_mode: tesseract's ``--psm``: 7 is a single line of text, 11 is sparse text anywhere in the picture.
        height: pictures are scaled to this many pixels high before reading.

    Raises:
        PluginError: the program is not installed.
    """

    def __init__(self, characters: str | None = None, page_mode: int = 7, height: int = 64) -> None:
        self._command = ["--psm", str(page_mode)]
        if characters is not None:
            self._command += ["-c", f"tessedit_char_whitelist={characters}"]
        self._height = height
        _tesseract("--version")

    def read(self, pictures: Sequence[Picture]) -> list[Reading]:
        """One reading per picture, in order. A reading does not depend on the other pictures."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{row}.png") for row in range(len(pictures))]
            for path, picture in zip(paths, pictures, strict=True):
                self._scaled(picture).save(path)
            listing = Path(folder, "pictures.txt")
            listing.write_text("".join(f"{path}\n" for path in paths))
            table = _tesseract(str(listing), "stdout", *self._command, "tsv")
        words: dict[int, list[tuple[str, float]]] = {page: [] for page in range(1, len(pictures) + 1)}
        for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
            if float(row["conf"]) >= 0:  # -1 marks rows that hold a layout element instead of a word
                words[int(row["page_num"])].append((row["text"], float(row["conf"]) / 100))
        return [_reading(found) for found in words.values()]

    def _scaled(self, picture: Picture) -> Image.Image:
        height, width = picture.shape[:2]
        size = (max(1, round(width * self._height / height)), self._height)
        return Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)


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
