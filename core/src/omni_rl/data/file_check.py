"""Opens and decodes the media files that rows of prompts name, and lists the rows that cannot be used.

What was found sound is remembered by the hash of its content, so that the next run starts at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic

from omni_rl.contracts.input_files import MEDIUM, exists, require_regular
from omni_rl.contracts.prompts import PromptRow
from omni_rl.data import media_files
from omni_rl.data.images import load_image
from omni_rl.data.prompts import place
from omni_rl.errors import DataError, UserError

MEND = "mend or remove these rows; data.check: off trains without this check"

LISTED = 20
"""At most this many bad rows are listed."""

SAMPLE = 64
"""Rows that ``data.check: sample`` looks at."""

VERSION = "1"
"""Part of every key of what is remembered; raise it when a check becomes stricter."""

_EVERY_S = 10.0

Problems = dict[int, str]
"""What is wrong, by the index of the row."""


def chosen_rows(check: str, count: int) -> list[int]:
    """Indices of the rows to look at: all, some at equal distances, or none."""
    if check == "off":
        return []
    if check == "full" or count <= SAMPLE:
        return list(range(count))
    return sorted({round(i * (count - 1) / (SAMPLE - 1)) for i in range(SAMPLE)})


def refuse_rows(path: str, rows: Sequence[PromptRow], problems: Problems, looked_at: int, hint: str = MEND) -> None:
    """Nothing if there are no problems.

    Raises:
        DataError: lists the bad rows of the file ``path`` with file and line.
    """
    if not problems:
        return
    places = {index: place(path, rows[index], index + 1) for index in sorted(problems)[:LISTED]}
    lines = [f"{places[index]}: {problems[index][:160]}" for index in places]
    more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    many = f"{len(problems)} of {looked_at} rows cannot be used:\n  " if len(problems) > 1 else ""
    raise DataError(many + "\n  ".join(lines + more), hint)


def bad_files(
    by_row: Mapping[int, Sequence[str]],
    note: Callable[[str], None] = lambda _: None,
    decode: Callable[[Path], object] = media_files.verify,
) -> Problems:
    """What is wrong with the media files of rows; every file is opened and decoded whole, several at a time.

    Args:
        by_row: the files by the index of their row.
        note: shows a line of progress.
        decode: reads one file, and raises a DataError.
    """
    files = sorted({file for each in by_row.values() for file in each})
    if not files:
        return {}
    wrong: dict[str, str] = {}
    shown = monotonic()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoders release Python's lock
        for done, (file, what) in enumerate(zip(files, pool.map(partial(_wrong_with, decode), files), strict=True), 1):
            if what is not None:
                wrong[file] = what
            if monotonic() - shown > _EVERY_S:
                note(f"checking data: {done} of {len(files)} media files")
                shown = monotonic()
    found = {index: [wrong[file] for file in each if file in wrong] for index, each in by_row.items()}
    return {index: each[0] for index, each in found.items() if each}


def _wrong_with(decode: Callable[[Path], object], file: str) -> str | None:
    try:
        digest = hashlib.sha256(VERSION.encode())
        with contextlib.suppress(OSError), open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, lambda: digest)
        key = f"media-{decode.__name__}-{digest.hexdigest()}-{Path(file).suffix.lower()}"
        if not remembered(key):
            decode(Path(file))
            remember(key)
    except UserError as error:
        return error.what
    return None


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-rl" / "data-check"


def remembered(key: str) -> bool:
    """Whether something was found sound, and :func:`remember` has kept its key."""
    return (_memory() / key).is_file()


def remember(key: str) -> None:
    """Keep an empty file of this name; a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        _memory().mkdir(parents=True, exist_ok=True)
        (_memory() / key).touch()


def check_images(
    check: str, path: str, rows: Sequence[PromptRow], files_of: Callable[[PromptRow], Sequence[str]]
) -> None:
    """Open and decode the images that rows name in other ways than by ``data.media``, as ``data.check`` asks for.

    Args:
        check: the value of ``data.check``.
        path: the file of the rows.
        files_of: the files of a row; a DataError that it raises is listed with the row.

    Raises:
        DataError: lists the bad rows with file and line.
    """
    problems: Problems = {}
    by_row: dict[int, Sequence[str]] = {}
    chosen = set(chosen_rows(check, len(rows)))
    for index, row in enumerate(rows):
        try:
            files = files_of(row)
            for file in files:
                _refuse_missing(Path(file))
        except DataError as error:
            problems[index] = error.what
        else:
            if index in chosen:
                by_row[index] = files
    problems |= bad_files(by_row, decode=load_image)
    beside = f"{Path(path).parent}/"
    refuse_rows(path, rows, {index: what.replace(beside, "") for index, what in problems.items()}, len(rows))


def _refuse_missing(file: Path) -> None:
    if not exists(file):
        raise DataError(f"{file} does not exist")
    require_regular(file, MEDIUM)
