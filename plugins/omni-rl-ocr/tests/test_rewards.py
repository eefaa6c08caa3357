"""The rewards on real recognisers and drawn signs."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from omni_rl.contracts.media import Media
from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import DataError, PluginError, RewardError
from omni_rl_ocr import OCRConfig, OCRReward, TesseractConfig, TesseractReward
from omni_rl_ocr.rapid import LineReader
from omni_rl_ocr.tesseract import TesseractReader

GROUNDS = [(200, 40, 40), (30, 110, 60), (40, 70, 180), (120, 50, 140), (40, 40, 40), (225, 225, 225), (230, 180, 40)]
NUMBERS = [f"{number:02d}" for number in range(100)]

needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program tesseract is not installed")


def draw(text: str, ground: tuple[int, int, int], size: tuple[int, int] = (64, 32)) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, ``size`` is (W, H): bold ink, black or white, in the middle of a plain ground."""
    ink = (255, 255, 255) if sum(ground) < 384 else (0, 0, 0)
    picture = Image.new("RGB", size, ground)
    font = ImageFont.load_default(size[1] * 0.9)
    ImageDraw.Draw(picture).text(
        (size[0] / 2, size[1] / 2), text, ink, font, anchor="mm", stroke_width=1, stroke_fill=ink
    )
    return np.asarray(picture)


def signs(texts: Sequence[str]) -> list[NDArray[np.uint8]]:
    """One sign per text, over varied grounds."""
    return [draw(text, GROUNDS[row % len(GROUNDS)]) for row, text in enumerate(texts)]


def batch_of(pictures: Sequence[NDArray[np.uint8]], targets: Sequence[str]) -> RewardBatch:
    """A reward batch whose prompts ask for ``targets``."""
    return RewardBatch(
        media=[{"image": Media("image", picture)} for picture in pictures],
        prompts=[f'a sign that says "{target}"' for target in targets],
        metadata=[{"text": target} for target in targets],
        uids=list(range(len(targets))),
    )


@pytest.fixture(scope="module")
def reward() -> OCRReward:
    return OCRReward(OCRConfig(threads=1))


def test_clean_signs_are_read(reward: OCRReward) -> None:
    assert np.mean(reward.score(batch_of(signs(NUMBERS), NUMBERS))) >= 0.95


def test_squeezed_signs_are_read() -> None:
    squeezed = OCRReward(OCRConfig(threads=1, width=64))
    assert np.mean(squeezed.score(batch_of(signs(NUMBERS), NUMBERS))) >= 0.95


def test_wrong_targets_score_low(reward: OCRReward) -> None:
    wrong = [f"{(int(number) + 11) % 100:02d}" for number in NUMBERS]
    assert np.mean(reward.score(batch_of(signs(NUMBERS), wrong))) < 0.2


def test_blank_pictures_score_zero(reward: OCRReward) -> None:
    blank = [np.full((32, 64, 3), 128, np.uint8)] * 3
    assert reward.score(batch_of(blank, ["42", "17", "03"])) == [0.0, 0.0, 0.0]


def test_empty_batch(reward: OCRReward) -> None:
    assert reward.score(batch_of([], [])) == []


def mixed_sizes() -> tuple[list[np.ndarray], list[str]]:
    texts = NUMBERS[:20]
    shapes = [(64, 32), (96, 32), (128, 64)]
    return [draw(text, GROUNDS[row % 7], shapes[row % 3]) for row, text in enumerate(texts)], texts


def test_batch_scores_equal_single_scores() -> None:
    pictures, texts = mixed_sizes()
    reward = OCRReward(OCRConfig(threads=1, use_confidence=True))
    together = reward.score(batch_of(pictures, texts))
    alone = [reward.score(batch_of([picture], [text]))[0] for picture, text in zip(pictures, texts, strict=True)]
    # onnxruntime picks kernels by batch size, which moves the confidence by rounding
    assert together == pytest.approx(alone, abs=1e-4)


def test_scores_follow_their_samples_through_a_permutation() -> None:
    pictures, texts = mixed_sizes()
    targets = [text if row % 2 else text[::-1] for row, text in enumerate(texts)]
    order = np.random.default_rng(0).permutation(len(texts))
    reward = OCRReward(OCRConfig(threads=1, use_confidence=True))
    straight = np.array(reward.score(batch_of(pictures, targets)))
    shuffled = reward.score(batch_of([pictures[i] for i in order], [targets[i] for i in order]))
    assert len(set(straight.round(6))) > 5
    assert shuffled == pytest.approx(straight[order].tolist(), abs=1e-4)


def test_confidence_multiplies_the_score() -> None:
    pictures, texts = signs(NUMBERS[:12]), NUMBERS[:12]
    targets = [text if row % 2 else f"{text[0]}x" for row, text in enumerate(texts)]
    plain = OCRReward(OCRConfig(threads=1)).score(batch_of(pictures, targets))
    weighted = OCRReward(OCRConfig(threads=1, use_confidence=True)).score(batch_of(pictures, targets))
    confidence = [reading.confidence for reading in LineReader(threads=1).read(pictures)]
    assert all(0.5 < value <= 1.0 for value in confidence)
    assert weighted == pytest.approx([a * b for a, b in zip(plain, confidence, strict=True)], abs=1e-4)


def test_column_is_the_target() -> None:
    picture = draw("42", GROUNDS[0])
    batch = RewardBatch([{"image": Media("image", picture)}], ["a red sign"], [{"number": 42}], [0])
    assert OCRReward(OCRConfig(threads=1, column="number")).score(batch) == [1.0]


def test_detector_finds_text_inside_a_scene() -> None:
    scene = np.full((256, 384, 3), 200, np.uint8)
    scene[20:84, 20:220] = draw("HELLO", (40, 70, 180), (200, 64))
    scene[160:224, 140:340] = draw("WORLD", (200, 40, 40), (200, 64))
    prompt = ['a wall with two signs that say "Hello World"']
    batch = RewardBatch([{"image": Media("image", scene)}], prompt, [{}], [0])
    assert OCRReward(OCRConfig(threads=1, detect=True)).score(batch) == [1.0]
    assert OCRReward(OCRConfig(threads=1)).score(batch) < [1.0]


def test_prompt_without_target_is_an_error(reward: OCRReward) -> None:
    batch = RewardBatch([{"image": Media("image", draw("42", GROUNDS[0]))}], ["a sign saying 42"], [{}], [0])
    with pytest.raises(DataError, match="'a sign saying 42'"):
        reward.score(batch)


def test_sample_without_image_is_an_error(reward: OCRReward) -> None:
    sound = {"audio": Media("audio", np.zeros((1, 8), np.float32), 16000.0)}
    with pytest.raises(RewardError, match="holds audio"):
        reward.score(RewardBatch([sound], ['a voice says "42"'], [{}], [0]))


@pytest.mark.parametrize("config", [{"colum": "text"}, {"width": 3}, {"threads": 0}])
def test_config_refuses(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OCRConfig(**config)


@pytest.mark.parametrize("kind", [OCRConfig, TesseractConfig])
def test_every_option_is_described(kind: type[OCRConfig]) -> None:
    assert all(field.description for field in kind.model_fields.values())


def test_entry_points_resolve() -> None:
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]
    rewards = {name: EntryPoint(name, value, "").load() for name, value in declared["omni_rl.rewards"].items()}
    assert rewards == {"ocr": OCRReward, "ocr_tesseract": TesseractReward}


@needs_tesseract
@pytest.mark.parametrize("characters", [None, "0123456789"])
def test_tesseract_reads_clean_signs(characters: str | None) -> None:
    reward = TesseractReward(TesseractConfig(characters=characters))
    assert np.mean(reward.score(batch_of(signs(NUMBERS), NUMBERS))) >= 0.95


@needs_tesseract
def test_tesseract_readings_stay_with_their_pictures() -> None:
    texts = ["42", "", "17", "HELLO"]
    pictures = [draw(text, GROUNDS[2], (128, 32)) for text in texts]
    reader = TesseractReader("0123456789EHLO")  # unrestricted, it reads a dash off a blank picture
    assert [reading.text for reading in reader.read(pictures)] == texts
    assert [reading.text for reading in reader.read(pictures[::-1])] == texts[::-1]


@needs_tesseract
def test_tesseract_confidence_multiplies_the_score() -> None:
    pictures, texts = signs(NUMBERS[10:16]), NUMBERS[10:16]
    weighted = TesseractReward(TesseractConfig(use_confidence=True)).score(batch_of(pictures, texts))
    readings = TesseractReader().read(pictures)
    assert weighted == pytest.approx([reading.confidence for reading in readings])


def test_missing_tesseract_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PluginError, match="apt-get install tesseract-ocr"):
        TesseractReward(TesseractConfig())
