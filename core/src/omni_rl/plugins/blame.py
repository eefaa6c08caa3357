"""Finds the line of an author's code that raised an exception, and describes the error on one screen."""

from __future__ import annotations

import importlib
import traceback
from dataclasses import dataclass
from pathlib import Path

from omni_rl.errors import UserError

CORE = Path(__file__).resolve().parents[1]
MAX_LINES, MAX_WIDTH = 12, 240

_IMPORT_SYSTEM = (str(Path(importlib.__file__).parent), str(Path(__file__).parent), "<frozen ")


@dataclass(frozen=True)
class CodeLine:
    """A line of source code; ``code`` is its text, empty when the source cannot be read."""

    file: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def code_line(error: BaseException, home: Path | None = None) -> CodeLine | None:
    """The line of the author's own code that raised ``error``; None when the traceback contains no such line.

    The author's code is every file in the folder ``home``. The default is the folder of the first frame that core
    called, which is the plugin's entry. Frames of libraries that the plugin called are skipped: the author has to look
    at the call.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return CodeLine(error.filename, error.lineno or 1, (error.text or "").strip())
    frames = list(traceback.extract_tb(error.__traceback__))
    entry = next((i for i, frame in enumerate(frames) if _in_core(frame.filename)), 0)
    frames = [frame for frame in frames[entry:] if not frame.filename.startswith(_IMPORT_SYSTEM)]
    outside = [frame for frame in frames if not _in_core(frame.filename)]
    folder = home or (Path(outside[0].filename).parent if outside else None)
    own = [frame for frame in outside if Path(frame.filename).parent == folder] or outside or frames
    return CodeLine(own[-1].filename, own[-1].lineno or 1, own[-1].line or "") if own else None


def describe_error(error: BaseException, home: Path | None = None) -> str:
    """``error`` and its cause, each with the author's file and line, cut to one screen.

    An exception group is described by its first error. A UserError is shown unchanged: its text already names a place.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, UserError):
        return _screen(str(error))
    text = _screen(_with_line(error, home))
    return f"{text}\ncaused by {_screen(_with_line(error.__cause__, home))}" if error.__cause__ else text


def describe_failure(label: str, error: BaseException) -> str:
    """The message for a reward ``label`` that raised ``error``."""
    return f"reward {label!r} failed: {describe_error(error)}"


def _in_core(filename: str) -> bool:
    return Path(filename).is_relative_to(CORE)


def _with_line(error: BaseException, home: Path | None) -> str:
    lines = [f"{type(error).__name__}: {_text(error)}".removesuffix(": ")]
    source = code_line(error, home)
    if source:
        lines += [f"  at {source}", *([f"    {source.code}"] if source.code else [])]
    return "\n".join(lines)


def _text(error: BaseException) -> str:
    """``str(error)``; a class of the user may raise in it."""
    try:
        return str(error)
    except Exception as second:
        return f"(its __str__ raised {type(second).__name__})"


def _screen(text: str) -> str:
    lines = text.splitlines()
    kept = lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 4], "...", *lines[-3:]]
    return "\n".join(line if len(line) <= MAX_WIDTH else f"{line[:MAX_WIDTH]}..." for line in kept)
