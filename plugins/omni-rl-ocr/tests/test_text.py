"""Targets and scores: golden pairs, and the edit distance against a definition."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_rl.errors import DataError
from omni_rl_ocr.text import edit_distance, edit_score, normalise, target_text

FULL_WIDTH_42 = "\uff14\uff12"


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ('a sign that says "42"', "42"),
        ('"STOP" on a red board', "STOP"),
        ('a cup with "Good Morning" beside a plate with "Good Night"', "Good Morning"),
        ("a poster, 'not this', that reads \"but this\"", "but this"),
        ("the baker's shop is called \"L'Or\"", "L'Or"),
        ("a neon sign \u201cOpen late\u201d", "Open late"),
    ],
)
def test_target_is_the_first_double_quoted_part(prompt: str, target: str) -> None:
    assert target_text(prompt, {}) == target


def test_column_takes_precedence_over_quotes() -> None:
    assert target_text('a sign that says "42"', {"text": "17"}, column="text") == "17"


def test_column_may_hold_a_number() -> None:
    assert target_text("a sign", {"text": 7}, column="text") == "7"


@pytest.mark.parametrize("prompt", ["a sign that says 42", "a 12\" record of the baker's", "a sign that says '42'"])
def test_prompt_that_quotes_nothing_is_named(prompt: str) -> None:
    with pytest.raises(DataError) as caught:
        target_text(prompt, {})
    assert repr(prompt) in str(caught.value)
    assert "`column`" in str(caught.value)


def test_missing_column_is_named_with_its_neighbour() -> None:
    with pytest.raises(DataError, match=r"no metadata column 'txt'.*present: text.*Did you mean 'text'"):
        target_text("a sign", {"text": "42"}, column="txt")


@pytest.mark.parametrize(("prompt", "column"), [('a sign that says " "', None), ("a sign", "text")])
def test_blank_target_is_refused(prompt: str, column: str | None) -> None:
    with pytest.raises(DataError, match="blank"):
        target_text(prompt, {"text": ""}, column)


@pytest.mark.parametrize(
    ("text", "target", "score"),
    [
        ("42", "42", 1.0),
        (FULL_WIDTH_42, "42", 1.0),  # PP-OCR often answers with full-width digits
        ("42", FULL_WIDTH_42, 1.0),
        (" 4 2 ", "42", 1.0),
        ("sToP", "STOP", 1.0),
        ("No 42!", "42", 1.0),  # the target is contained
        ("43", "42", 0.5),
        ("4", "42", 0.5),
        ("24", "42", 0.0),
        ("", "42", 0.0),
        ("a much longer reading", "42", 0.0),  # the distance is capped at the target's length
        ("Helo World", "Hello World", 0.9),
    ],
)
def test_golden_scores(text: str, target: str, score: float) -> None:
    assert edit_score(text, target) == pytest.approx(score, abs=1e-12)


short = st.text("ab4 ", max_size=6)


def by_definition(a: str, b: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        change = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(change, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


@given(short, short)
def test_edit_distance_is_levenshtein(a: str, b: str) -> None:
    assert edit_distance(a, b) == by_definition(a, b)


@given(st.text(max_size=8), st.text(min_size=1, max_size=8).filter(normalise))
def test_score_is_a_share_and_blind_to_case_and_space(text: str, target: str) -> None:
    score = edit_score(text, target)
    assert 0.0 <= score <= 1.0
    assert edit_score(f" {text}\n", f"\t{target} ") == score
