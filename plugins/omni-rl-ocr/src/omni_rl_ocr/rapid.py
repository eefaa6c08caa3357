"""The recogniser of the reward ``ocr``: PP-OCRv6 (small) from the `rapidocr` wheel, so nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from omni_rl.errors import PluginError
from omni_rl_ocr.reading import Pixels, Reading, joined

_MODEL = "PP-OCRv6_rec_small.onnx"
_HEIGHT = 48  # pixels; the recogniser's input height
_NARROWEST = 16  # pixels; less leaves the recogniser no column to read
_BATCH = 16


class LineReader:
    """Reads images that are one line of text each, in batches (about 8 ms per 2:1 image on one core).

    Args:
        width: input width in pixels at a height of 48; None keeps each image's aspect ratio.
        threads: onnxruntime threads; None lets onnxruntime decide.
    """

    def __init__(self, width: int | None = None, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.enable_cpu_mem_arena = False  # it keeps the largest memory of every shape for the whole run
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(_model_file(), options, providers=["CPUExecutionProvider"])
        characters = self._session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._characters = ["", *characters, " "]  # index 0 is the blank of CTC
        self._width = width

    def read(self, images: Sequence[Pixels]) -> list[Reading]:
        """One reading per image, in order."""
        lines = [self._line(image) for image in images]
        readings: dict[int, Reading] = {}
        # Only equal sizes share a batch: padding to the widest would change what is read from the others.
        for shape in {line.shape for line in lines}:
            rows = [row for row, line in enumerate(lines) if line.shape == shape]
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                readings.update(zip(part, self._recognise(np.stack([lines[row] for row in part])), strict=True))
        return [readings[row] for row in range(len(lines))]

    def _line(self, image: Pixels) -> NDArray[np.float32]:
        """(3, 48, width) in [-1, 1], BGR, as PP-OCR was trained."""
        height, width = image.shape[:2]
        wide = self._width or max(_NARROWEST, round(width * _HEIGHT / height))
        scaled = Image.fromarray(image).resize((wide, _HEIGHT), Image.Resampling.BICUBIC)
        return (np.asarray(scaled, np.float32) / 127.5 - 1)[:, :, ::-1].transpose(2, 0, 1)

    def _recognise(self, lines: NDArray[np.float32]) -> Iterator[Reading]:
        """Greedy CTC decoding of lines (B, 3, 48, W): drop repeats, then blanks."""
        (likelihoods,) = self._session.run(
            None, {self._session.get_inputs()[0].name: lines}
        )  # (B, columns, characters)
        for best, confidence in zip(likelihoods.argmax(2), likelihoods.max(2), strict=True):
            kept = np.append(True, best[1:] != best[:-1]) & (best != 0)
            text = "".join(self._characters[index] for index in best[kept]).strip()
            yield Reading(text, float(confidence[kept].mean()) if text else 0.0)


class SceneReader:
    """Finds lines of text in an image, then reads them in reading order (about 0.5 s per image on one core).

    The detector misses text that fills the whole image; :class:`LineReader` is for that.

    Args:
        threads: onnxruntime threads; None lets onnxruntime decide.
    """

    def __init__(self, threads: int | None = None) -> None:
        from rapidocr import RapidOCR

        _model_file()  # or RapidOCR would try to download it
        # RapidOCR silently ignores a number above the machine's.
        count = -1 if threads is None else min(threads, os.cpu_count() or 1)
        options = {"EngineConfig.onnxruntime.intra_op_num_threads": count, "Global.log_level": "error"}
        self._engine: Any = RapidOCR(params=options)  # its answer's type depends on what it finds

    def read(self, images: Sequence[Pixels]) -> list[Reading]:
        """One reading per image, in order."""
        return [self._scene(image) for image in images]

    def _scene(self, image: Pixels) -> Reading:
        found = self._engine(np.ascontiguousarray(image[:, :, ::-1]))
        return joined(Reading(*line) for line in zip(found.txts or (), found.scores or (), strict=True))


def _model_file() -> Path:
    """Path of the recogniser in the installed wheel. Another model would change the reward, so no other is used."""
    package = importlib.util.find_spec("rapidocr")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "models" / _MODEL
    if not path.is_file():
        raise PluginError(
            f"the installed rapidocr does not carry the recogniser {_MODEL} that the reward 'ocr' reads with",
            "pip install 'rapidocr>=3.10,<4'",
        )
    return path
