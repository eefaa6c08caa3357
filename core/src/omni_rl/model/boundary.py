"""The boundary to libraries that raise whatever they like: one sentence, with the true cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from omni_rl.errors import ModelError, RunError, UserError

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
        raise ModelError(f"{what}: {reason(error)}", hint) from error


def reason(error: BaseException) -> str:
    """The first line of an exception's text, and its type where the text alone says little."""
    try:
        lines = [line for line in str(error).splitlines() if line.strip()]
    except Exception:
        lines = []
    text = lines[0].strip()[:_WORDS] if lines else ""
    plain = isinstance(error, (OSError, ValueError)) and " " in text
    return text if plain else f"{type(error).__name__}: {text}".removesuffix(": ")
