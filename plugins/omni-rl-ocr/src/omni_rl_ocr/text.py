"""The target text of a prompt, and the score of a reading compared with it. Uses only text, no images."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from omni_rl.errors import DataError, did_you_mean

# Straight and typographic double quotes; an apostrophe is part of a word, so single quotes never delimit.
_QUOTED = re.compile('["\u201c\u201d]([^"\u201c\u201d]*)["\u201c\u201d]')


def target_text(prompt: str, metadata: Mapping[str, Any], column: str | None = None) -> str:
    """The text that an image of ``prompt`` should show.

    Args:
        prompt: the prompt; without ``column`` its first double-quoted part is the target (flow_grpo's rule).
        metadata: the other columns of the prompt's row.
        column: the metadata column that holds the target; takes precedence over quotes.

    Raises:
        DataError: the column is absent, or the prompt quotes nothing, or the target is blank.
    """
    target = _from_prompt(prompt) if column is None else _from_column(prompt, metadata, column)
    if not normalise(target):
        raise DataError(f"the OCR target of prompt {prompt!r} is blank", "give it at least one visible character")
    return target


def _from_column(prompt: str, metadata: Mapping[str, Any], column: str) -> str:
    if column not in metadata:
        present = ", ".join(sorted(metadata)) or "none"
        raise DataError(
            f"prompt {prompt!r} has no metadata column {column!r} (present: {present})."
            + did_you_mean(column, metadata),
            "add the column to the prompt set, or name another in the reward's `column`",
        )
    return str(metadata[column])


def _from_prompt(prompt: str) -> str:
    found = _QUOTED.search(prompt)
    if found is None:
        raise DataError(
            f"prompt {prompt!r} has no double-quoted part, so the OCR reward does not know what to read",
            'quote the text in the prompt (a sign that says "42"), or name a metadata column in the reward\'s `column`',
        )
    return found.group(1)


def normalise(text: str) -> str:
    """Readings and targets in comparable form: NFKC (full-width digits become ASCII), lower case, no white space."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the least number of insertions, deletions and substitutions that turn ``a`` into ``b``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def edit_score(text: str, target: str) -> float:
    """How well ``text`` matches ``target``, in [0, 1]; both are normalised first.

    ``1 - min(distance, len(target)) / len(target)``, and 1 when the target is contained in the text. This is
    ``OcrScorer`` of flow_grpo (https://github.com/yifan123/flow_grpo), plus the NFKC normalisation.
    ``target`` must not be blank.
    """
    text, target = normalise(text), normalise(target)
    if target in text:
        return 1.0
    return 1.0 - min(edit_distance(text, target), len(target)) / len(target)
