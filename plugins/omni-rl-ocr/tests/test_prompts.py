"""Prompts in the layout of Flow-GRPO's OCR set."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_rl.contracts.schema import Data
from omni_rl.data import prompts
from omni_rl.errors import DataError
from omni_rl.plugins.local import Registry
from omni_rl_ocr import read_ocr_text, target_text

LINES = """\
A wooden sign at a trailhead, carved with "Mind the Bears", morning fog between the pines
A ferry ticket, printed with "Deck B", next to a note that says "mine"

A café window, letters reading \u201cFresh at Six\u201d, warm light
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_quoted_text_becomes_a_column(tmp_path) -> None:
    data = Data(path=str(written(tmp_path / "train.txt", LINES)), format="ocr_txt")
    rows = prompts.load(data, lambda name: Registry().get("datasets", name)[0]).rows
    assert [row.prompt for row in rows] == [line for line in LINES.splitlines() if line]
    assert [row.metadata for row in rows] == [{"text": "Mind the Bears"}, {"text": "Deck B"}, {"text": "Fresh at Six"}]


def test_the_column_is_what_the_reward_would_take_from_the_prompt(tmp_path) -> None:
    for row in read_ocr_text(written(tmp_path / "train.txt", LINES), "prompt"):
        assert target_text(row.prompt, row.metadata, "text") == target_text(row.prompt, {})


@pytest.mark.parametrize("line", ["a sign that says 42", "a sign that says '42'", 'a sign that says " "', 'a 5" nail'])
def test_a_line_without_a_target_is_named(tmp_path, line: str) -> None:
    file = written(tmp_path / "train.txt", f'a sign that says "1"\n\n{line}\n')
    with pytest.raises(DataError) as caught:
        read_ocr_text(file, "prompt")
    assert str(caught.value).startswith(f"{file}:3: ")


def test_a_file_that_is_not_utf_8(tmp_path) -> None:
    (tmp_path / "train.txt").write_bytes(b'"a"\n"caf\xe9"\n')
    with pytest.raises(DataError, match=r"train\.txt:2: not UTF-8"):
        read_ocr_text(tmp_path / "train.txt", "prompt")
