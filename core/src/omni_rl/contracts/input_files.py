"""Reads files that a user names, within limits.

A name in a configuration or a prompt file may lead to a named pipe, a device or a file of any size. Reading those would
wait for ever or fill the memory, so only regular files up to a limit are read.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from omni_rl.errors import DataError, UserError

CONFIGURATION = 256 * 1024
"""Largest YAML, index or other configuration file, in bytes."""

PROMPTS = 256 * 1024**2
"""Largest prompt file, in bytes."""

MEDIUM = 1024**3
"""Largest image or video file, in bytes."""

DIGITS = 40
"""Longest whole number in a file. No key needs more, and Python refuses to print numbers of thousands of digits."""

DEPTH = 50
"""Deepest nesting of lists and mappings."""

_PIECE = 1024**2  # bytes; read(n) takes n bytes of memory even if the file is short

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def require_regular(path: Path, limit: int, kind: type[UserError] = DataError) -> None:
    """Refuse what is no regular file, and a file of more than ``limit`` bytes.

    Raises:
        UserError: of the type ``kind``; also if there is no such file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise kind(f"{str(path)[:200]} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    name = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), None)
    if name is not None:
        raise kind(f"{path} is {name}, not a regular file.", "Give the path of a regular file.")
    if status.st_size > limit:
        raise _too_large(path, limit, kind)


def read_regular(path: Path, limit: int, kind: type[UserError] = DataError) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        UserError: of the type ``kind``: it is no regular file, is larger, or cannot be read.
    """
    require_regular(path, limit, kind)
    content = bytearray()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):  # files of /proc give their size as 0
                content += piece
                if len(content) > limit:
                    raise _too_large(path, limit, kind)
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror}.") from error
    return bytes(content)


def _too_large(path: Path, limit: int, kind: type[UserError]) -> UserError:
    size = f"{limit // 1024**2} MB" if limit >= 1024**2 else f"{limit // 1024} kB"
    return kind(f"{path} is larger than {size}, the limit for such a file.", "Give a smaller file.")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False also for a name that no file can have, or that may not be seen."""
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long, or holds a NUL
        return False


def is_folder(path: Path) -> bool:
    """As :func:`exists`, for a folder."""
    return exists(path) and path.is_dir()


def is_file(path: Path) -> bool:
    """As :func:`exists`, for a regular file."""
    return exists(path) and path.is_file()


def names_in(folder: Path, folders: bool = False) -> list[str]:
    """The names of the files, or of the folders, in a folder, sorted; none if it is no folder or may not be read."""
    try:
        inside = list(folder.iterdir()) if is_folder(folder) else []
    except OSError:
        return []
    return sorted(path.name for path in inside if (is_folder(path) if folders else is_file(path)))


def parse_json(text: str) -> Any:
    """The data in ``text``.

    Raises:
        ValueError: it is not JSON, or is nested too deeply, or has a number of too many digits;
            :class:`json.JSONDecodeError` where the place is known.
    """
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None


def _whole_number(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def flaw(value: Any, depth: int = DEPTH) -> str | None:
    """What makes plain data unfit for reports and other processes, or None: bad characters, or too deep nesting.

    NUL bytes end texts early in other programs, and lone surrogates cannot be written as UTF-8.
    """
    if isinstance(value, str):
        bad = _NOT_TEXT.search(value)
        return None if bad is None else f"the character U+{ord(bad[0]):04X}"
    if not isinstance(value, (dict, list, tuple)):
        return None
    if depth == 0:
        return f"lists or objects nested more than {DEPTH} deep"
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    return next((found for each in inside if (found := flaw(each, depth - 1)) is not None), None)
