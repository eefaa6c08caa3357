"""Errors as JSON data, for another process."""

from __future__ import annotations

from typing import Any

from omni_rl import errors
from omni_rl.errors import RunError, UserError
from omni_rl.plugins.blame import describe_error


def to_json(error: BaseException) -> dict[str, Any]:
    """An error as JSON data; one that is not for users becomes a RunError with one sentence."""
    if not isinstance(error, (UserError, RunError)):
        return {"kind": "RunError", "what": describe_error(error), "hint": None, "notes": []}
    what, hint = getattr(error, "what", str(error)), getattr(error, "hint", None)
    notes = list(getattr(error, "__notes__", ()))
    return {"kind": type(error).__name__, "what": what, "hint": hint, "notes": notes}


def from_json(data: dict[str, Any], where: str = "") -> UserError | RunError:
    """The inverse of :func:`to_json`; ``where`` stands before the message. An unknown kind becomes a RunError."""
    kind = getattr(errors, data["kind"], RunError)
    what = f"{where}{data['what']}"
    error: UserError | RunError = kind(what, data["hint"])
    for note in data.get("notes", ()):
        error.add_note(note)
    return error
