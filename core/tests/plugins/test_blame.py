from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from omni_rl.contracts.reward import RewardBatch
from omni_rl.errors import RewardError
from omni_rl.plugins.blame import MAX_LINES, code_line, describe_failure
from omni_rl.rewards.builtin import PythonFunction

BATCH = RewardBatch([{}], ["a cat"], [{}], [0])


def raised_by(file: Path, source: str) -> BaseException:
    """The error of the function ``score`` of a user's file."""
    file.write_text(source)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever the file raises
        PythonFunction(PythonFunction.Config(file=file)).score(BATCH)
    return caught.value


PARSES = """\
import json

def score(batch):
    return parse("{")

def parse(text):
    return json.loads(text)
"""

CHAINS = """\
def score(batch):
    try:
        return 1 / 0
    except ZeroDivisionError as error:
        raise ValueError("no scale") from error
"""


def test_the_line_is_the_users_and_not_the_librarys(tmp_path) -> None:
    error = raised_by(tmp_path / "mine.py", PARSES)
    assert isinstance(error, json.JSONDecodeError)
    line = code_line(error)
    assert (line.file, line.line, line.code) == (str(tmp_path / "mine.py"), 7, "return json.loads(text)")
    text = describe_failure("mine", error)
    assert text.startswith("reward 'mine' failed: JSONDecodeError: Expecting property name")
    assert f"  at {tmp_path / 'mine.py'}:7\n    return json.loads(text)" in text


def test_a_cause_is_shown_with_its_own_line(tmp_path) -> None:
    text = describe_failure("mine", raised_by(tmp_path / "mine.py", CHAINS))
    assert "ValueError: no scale\n  at " in text
    assert "mine.py:5" in text
    assert "caused by ZeroDivisionError: division by zero" in text
    assert "mine.py:3" in text


def test_a_long_message_keeps_to_one_screen_and_keeps_the_line(tmp_path) -> None:
    source = "def score(batch):\n    raise ValueError('\\n'.join(['<html>' * 200] * 500))\n"
    text = describe_failure("mine", raised_by(tmp_path / "mine.py", source))
    assert len(text.splitlines()) <= MAX_LINES
    assert max(map(len, text.splitlines())) < 300
    assert "mine.py:2" in text


def test_the_first_error_of_a_group_speaks_for_it() -> None:
    async def fails() -> None:
        raise OSError("connection refused")

    async def score() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(score())
    text = describe_failure("service", caught.value)
    assert "OSError: connection refused" in text
    assert "test_blame.py:" in text
    assert 'raise OSError("connection refused")' in text


def test_an_error_for_the_user_is_shown_as_it_is() -> None:
    error = RewardError("the service has no model 'x'.", "Start it with --model x.")
    assert describe_failure("vlm", error) == (
        "reward 'vlm' failed: the service has no model 'x'.\n  Start it with --model x."
    )


def test_an_error_that_was_never_raised_has_no_line() -> None:
    assert describe_failure("r", TimeoutError()) == "reward 'r' failed: TimeoutError"
    assert code_line(TimeoutError()) is None
