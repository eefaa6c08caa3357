"""Where did somebody's reward code fail? One screen of text, ending at the author's own line."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from omni_rl.errors import UserError

CORE = Path(__file__).resolve().parents[1]
MAX_LINES, MAX_WIDTH = 12, 240


@dataclass(frozen=True)
class Place:
    """A line of source code; ``code`` is its text, empty when the source cannot be read."""

    file: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def place_of(error: BaseException, home: Path | None = None) -> Place | None:
    """The line of the author's own code that raised ``error``; None when no frame is left to tell.

    The author's code is what lies in the folder ``home``; by default in the folder of the frame that core called first,
    which is where the reward was entered. A library that the reward called is not where its author has to look.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return Place(error.filename, error.lineno or 1, (error.text or "").strip())
    frames = traceback.extract_tb(error.__traceback__)
    entry = next((i for i, frame in enumerate(frames) if _in_core(frame.filename)), 0)
    outside = [frame for frame in frames[entry:] if not _in_core(frame.filename)]
    folder = home or (Path(outside[0].filename).parent if outside else None)
    own = [frame for frame in outside if Path(frame.filename).parent == folder] or outside or frames
    return Place(own[-1].filename, own[-1].lineno or 1, own[-1].line or "") if own else None


def describe_error(error: BaseException, home: Path | None = None) -> str:
    """``error`` and its cause, each with the author's file and line, cut to one screen.

    The first error stands for an exception group. A UserError is shown as it is: it already says where to look.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, UserError):
        return _screen(str(error))
    text = _screen(_with_place(error, home))
    return f"{text}\ncaused by {_screen(_with_place(error.__cause__, home))}" if error.__cause__ else text


def describe_failure(label: str, error: BaseException) -> str:
    """What to tell the user about the reward ``label`` that raised ``error`` instead of answering."""
    return f"reward {label!r} failed: {describe_error(error)}"


def _in_core(filename: str) -> bool:
    return Path(filename).is_relative_to(CORE)


def _with_place(error: BaseException, home: Path | None) -> str:
    lines = [f"{type(error).__name__}: {error}".removesuffix(": ")]
    place = place_of(error, home)
    if place:
        lines += [f"  at {place}", *([f"    {place.code}"] if place.code else [])]
    return "\n".join(lines)


def _screen(text: str) -> str:
    lines = text.splitlines()
    kept = lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 4], "...", *lines[-3:]]
    return "\n".join(line if len(line) <= MAX_WIDTH else f"{line[:MAX_WIDTH]}..." for line in kept)
