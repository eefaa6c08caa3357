"""Errors for users.

Every message answers three questions: what is wrong, where (file, line, key, plugin), what to type next.
The command line prints these without a traceback: a :class:`UserError` exits 2, a :class:`RunError` exits 1.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LINES, WIDTH, LENGTH = 36, 400, 3500
"""A message has at most this many lines, characters in a line, and characters. A value in it may be of any size."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class UserError(ValueError):
    """An error that the user can fix: a key, a path, a plugin, a prompt, a reward.

    Args:
        what: one sentence that names the wrong thing and where it stands.
        hint: what to type or change next; shown on its own line.
    """

    def __init__(self, what: str, hint: str | None = None) -> None:
        self.what = clipped(what)
        self.hint = None if hint is None else clipped(hint)
        super().__init__(self.what if self.hint is None else f"{self.what}\n  {self.hint}")


class ConfigError(UserError):
    """A configuration file, key or override is wrong."""


class PluginError(UserError):
    """A plugin is missing, broken, or claims what another claims."""


class ModelError(UserError):
    """A model folder, checkpoint or pipeline cannot be used."""


class DataError(UserError):
    """A prompt set or a prompt cannot be used."""


class RewardError(UserError):
    """A reward function answered with something that is not a reward."""


class CheckpointError(UserError):
    """A checkpoint is missing, corrupt, or belongs to another run or model."""


class RunError(RuntimeError):
    """The run itself failed although the user's input was sound (disk full, engine lost); arguments as UserError."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(clipped(what if hint is None else f"{what}\n  {hint}"))


class GateError(RunError):
    """A check of the gate failed; the message has one sentence per failed row."""


def clipped(text: str) -> str:
    """``text`` as it can be shown on one screen: shortened, with control characters as escape sequences."""
    lines = text[: 4 * LENGTH].split("\n")
    kept = [line if len(line) <= WIDTH else f"{line[:WIDTH]}..." for line in lines[:LINES]]
    short = "\n".join(kept if len(lines) <= LINES else [*kept, "..."])
    short = short if len(short) <= LENGTH else f"{short[:LENGTH]}..."
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), short)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``word``, or None when nothing is close."""
    if len(word) > 100:  # no name is this long, and the comparison would take minutes
        return None
    matches = difflib.get_close_matches(word, [name for name in known if len(name) <= 200], n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' with a leading space, or the empty string."""
    match = nearest(word, known)
    return f" Did you mean {match!r}?" if match else ""
