"""The boundary to libraries that raise whatever they like: one sentence, with the true cause."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from omni_rl.errors import ModelError, RunError, UserError
from omni_rl.plugins.blame import CORE

_WORDS = 300


@contextmanager
def foreign(what: str, hint: str) -> Iterator[None]:
    """Around a call of another library.

    Args:
        what: the start of the sentence, such as ``./model: diffusers cannot load this pipeline``.
        hint: what to do next.

    Raises:
        ModelError: in place of any exception, with the first line of the deepest cause. Errors of omni-rl and lack of
            memory are not changed.
    """
    try:
        yield
    except (UserError, RunError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{what}: {reason(error)}{_own_line(error)}", hint) from error


def _own_line(error: BaseException) -> str:
    """The line of a plugin's author in the traceback, if there is one: neither core's nor a library's."""
    apart = (str(CORE), sys.base_prefix, "<")
    files = [
        (f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(apart)
    ]
    own = [f"{file}:{line}" for file, line in files if "site-packages" not in file]
    return f" (at {own[-1]})" if own else ""


def reason(error: BaseException) -> str:
    """The first line of an exception's text, and its type where the text alone says little."""
    try:
        lines = [line for line in str(error).splitlines() if line.strip()]
    except Exception:
        lines = []
    text = lines[0].strip()[:_WORDS] if lines else ""
    plain = isinstance(error, (OSError, ValueError)) and " " in text
    return text if plain else f"{type(error).__name__}: {text}".removesuffix(": ")
