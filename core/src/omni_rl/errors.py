"""Errors for users.

Every message answers three questions: what is wrong, where (file, line, key, plugin), what to type next.
The command line prints these without a traceback: a :class:`UserError` exits 2, a :class:`RunError` exits 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error that the user can fix: a key, a path, a plugin, a prompt, a reward.

    Args:
        what: one sentence that names the wrong thing and where it stands.
        hint: what to type or change next; shown on its own line.
    """

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what if hint is None else f"{what}\n  {hint}")
        self.what = what
        self.hint = hint


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
    """The run itself failed although the user's input was sound (disk full, engine lost)."""


class GateError(RunError):
    """A check of the gate failed; the message has one sentence per failed row."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``word``, or None when nothing is close."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' with a leading space, or the empty string."""
    match = nearest(word, known)
    return f" Did you mean {match!r}?" if match else ""
