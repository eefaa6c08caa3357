"""Where an exception comes from, in words that fit on one screen."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path

MESSAGE_LINES = 12

_MACHINERY = (str(Path(importlib.__file__).parent), str(Path(__file__).parent), "<frozen ")


def summary(error: BaseException) -> str:
    """``Type: message``, cut after ``MESSAGE_LINES`` lines."""
    lines = f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()
    cut = lines[:MESSAGE_LINES] + ["..."] * (len(lines) > MESSAGE_LINES)
    return "\n  ".join(cut)


def place(error: BaseException, inside: str | None = None) -> str | None:
    """``file:line`` of the innermost frame that is not import machinery; of the file ``inside`` alone when given.

    None when there is no such frame, e.g. because the module to import does not exist.
    """
    if isinstance(error, SyntaxError) and inside in (None, error.filename):
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == inside or (inside is None and not frame.filename.startswith(_MACHINERY)):
            return f"{frame.filename}:{frame.lineno}"
    return None
