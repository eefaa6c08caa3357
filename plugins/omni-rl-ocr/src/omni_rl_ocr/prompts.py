"""Flow-GRPO's OCR prompts: the text to write is between double quotes."""

from __future__ import annotations

from pathlib import Path

from omni_rl.authoring.data import PromptRow, numbered_lines
from omni_rl.errors import DataError
from omni_rl_ocr.text import target_text


def read_ocr_text(path: Path, prompt_column: str) -> list[PromptRow]:
    """``ocr_txt``: one prompt per line; its first double-quoted part becomes the metadata column ``text``.

    The layout is that of ``dataset/ocr/*.txt`` in https://github.com/yifan123/flow_grpo. A line without a target is
    found here, and not by the reward in the middle of a run.

    Raises:
        DataError: naming file and line, for a prompt that quotes nothing, or only blanks.
    """
    del prompt_column
    return [_row(f"{path}:{number}", line) for number, line in numbered_lines(path)]


def _row(where: str, prompt: str) -> PromptRow:
    try:
        return PromptRow(prompt, {"text": target_text(prompt, {})})
    except DataError as error:
        raise DataError(f"{where}: {error.what}", error.hint) from None
