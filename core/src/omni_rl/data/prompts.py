"""Reads prompt files into rows, and selects the rows of an iteration.

A format is a callable ``(path, prompt_column) -> list[PromptRow]`` with an entry point in the group
``omni_rl.datasets``. The entry point's name is the value of ``data.format``; the default is the file's suffix. Rows
with equal text stay separate rows, because groups are identified by uid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omni_rl.contracts.input_files import (
    MEDIUM,
    PROMPTS,
    exists,
    flaw,
    is_folder,
    names_in,
    parse_json,
    read_regular,
    require_regular,
)
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.schema import Data
from omni_rl.errors import ConfigError, DataError, PluginError, did_you_mean, nearest

if TYPE_CHECKING:
    import pyarrow


LONGEST = 100_000
"""Most characters of a prompt; no text encoder reads as many."""

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".yaml", ".yml", ".xml", ".xlsx")

Reader = Callable[[Path, str], list[PromptRow]]
"""The type of a format: (path, prompt column) -> rows. It raises DataError with the file and the line."""


def read_text(path: Path, prompt_column: str) -> list[PromptRow]:
    """``txt``: one prompt per line, stripped. Blank lines are skipped, and there are no other columns."""
    del prompt_column
    return _some(path, [PromptRow(line, line=number) for number, line in numbered_lines(path)])


def read_json_lines(path: Path, prompt_column: str) -> list[PromptRow]:
    """``jsonl``: one JSON object per line; blank lines are skipped.

    Raises:
        DataError: broken JSON, a line that is not an object, or an invalid prompt; gives file and line.
    """
    return _some(path, [row for _, row in placed_rows(path, prompt_column)])


def read_parquet(path: Path, prompt_column: str) -> list[PromptRow]:
    """``parquet``: one prompt per row. Needs the extra ``parquet``.

    Raises:
        PluginError: pyarrow is not installed.
        DataError: a broken file, an invalid prompt, or a value that JSON cannot represent; gives file and row (from 1).
    """
    records = _table(path).to_pylist()
    return _some(
        path, [_row(f"{path}: row {i}", _json_able(path, i, r), prompt_column) for i, r in enumerate(records, 1)]
    )


def load(data: Data, find_reader: Callable[[str], Reader]) -> PromptSet:
    """The prompts of a ``data:`` section.

    Args:
        data: ``path`` is absolute, or relative to the working directory; ``format`` defaults to the path's suffix.
        find_reader: maps a format's name to its reader; raises PluginError for an unknown name.

    Raises:
        ConfigError: a key is unknown, or the format cannot be derived from the file name.
        PluginError: the reader returns something other than PromptRow.
        DataError: the file or one of its prompts cannot be used.
    """
    _check_keys(data)
    path = Path(data.path)
    name = data.format or path.suffix.removeprefix(".").lower()
    if not name:
        raise ConfigError(f"{path} has no suffix, so its format is unknown.", "Set `data.format`, for example to txt.")
    _refuse_table(path, name)
    rows = find_reader(name)(path, data.prompt_column)
    stranger = next((row for row in rows if not isinstance(row, PromptRow)), None)
    if stranger is not None:
        raise PluginError(f"the reader of {name!r} returned a {type(stranger).__name__}, not a PromptRow.")
    for number, row in enumerate(_some(path, rows), 1):
        _check_text(place(path, row, number), row)
    return PromptSet([_with_arguments(data, path, i, row) for i, row in enumerate(rows, 1)])


def place(path: Path | str, row: PromptRow, number: int) -> str:
    """Where a row stands: ``prompts.jsonl:3``, or ``prompts.parquet: row 3`` where the format has no lines."""
    return f"{path}: row {number}" if row.line is None else f"{path}:{row.line}"


def _refuse_table(path: Path, name: str) -> None:
    """A table that is read as lines of text would train on its header and its commas."""
    if name == "txt" and path.suffix.lower() in _TABLES:
        hint = "convert it to jsonl, one object in each line, or rename the file to .txt if its lines are prompts"
        raise ConfigError(f"data.format is txt, and {path.name} is no file of plain lines by its name.", hint)


def _check_text(where: str, row: PromptRow) -> None:
    if len(row.prompt) > LONGEST:
        raise DataError(f"{where}: the prompt has {len(row.prompt)} characters.", f"The limit is {LONGEST}.")
    wrong = flaw(row.prompt) or flaw(row.metadata)
    if wrong is not None:
        raise DataError(f"{where}: it contains {wrong}.", "Remove it from the row.")


def _with_arguments(data: Data, path: Path, number: int, row: PromptRow) -> PromptRow:
    """The row with the arguments that ``data.media`` and ``data.call`` take from its columns."""
    if not data.media and not data.call:
        return row
    where = place(path, row, number)
    media = {
        argument: _files(where, path, column, _column(where, row, column)) for argument, column in data.media.items()
    }
    return replace(row, media=media, call={column: _column(where, row, column) for column in data.call})


def _column(where: str, row: PromptRow, column: str) -> Any:
    if column not in row.metadata:
        columns = ", ".join(map(repr, row.metadata)) or "none besides the prompt"
        raise DataError(f"{where}: no column {column!r}; it has {columns}.{did_you_mean(column, row.metadata)}")
    return row.metadata[column]


def _files(where: str, path: Path, column: str, value: Any) -> str | list[str]:
    """Absolute paths of the files that ``value`` names."""
    names = value if isinstance(value, list) else [value]
    if any(isinstance(name, dict) for name in names):
        what = f"{where}: column {column!r} holds images themselves, as data sets of Hugging Face do, not their files."
        raise DataError(what, "Save each image: row['image'].save(name), and write the name into the column.")
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: column {column!r} must hold a path or a list of paths, not {_shown(value)}.")
    files = [path.parent / name for name in names]
    absent = next((file for file in files if not exists(file)), None)
    if absent is not None:
        raise DataError(f"{where}: {absent} does not exist.", "Paths are relative to the data file.")
    for file in files:
        try:
            require_regular(file, MEDIUM)
        except DataError as error:
            raise DataError(f"{where}: {error.what}", error.hint) from error
    resolved = [str(file.resolve()) for file in files]
    return resolved if isinstance(value, list) else resolved[0]


def placed_rows(path: Path, prompt_column: str) -> Iterator[tuple[str, PromptRow]]:
    """The rows of a ``jsonl`` file, each with its place (``prompts.jsonl:3``), for formats with further checks.

    Raises:
        DataError: as :func:`read_json_lines`.
    """
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        yield where, replace(_row(where, _object(path, number, line), prompt_column), line=number)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, stripped, with their numbers (from 1).

    Only a newline ends a line, because a prompt may contain U+2028.

    Raises:
        DataError: there is no such file, or it is not UTF-8.
    """
    _check_exists(path)
    data = read_regular(path, PROMPTS)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 ({error.reason}).", "Save the file as UTF-8.") from error
    stripped = enumerate((line.strip() for line in text.split("\n")), 1)
    return ((number, line) for number, line in stripped if line)


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        value = parse_json(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: broken JSON at column {error.colno}: {error.msg}.") from error
    except ValueError as error:
        raise DataError(f"{path}:{number}: {error}.", "Shorten the value.") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{path}:{number}: a line must be a JSON object, not {_shown(value)}.", 'Write {"prompt": "..."}.'
        )
    return value


def _table(path: Path) -> pyarrow.Table:
    _check_exists(path)
    require_regular(path, PROMPTS)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PluginError(f"reading {path} needs pyarrow.", "pip install 'omni-rl[parquet]'") from error
    try:
        return pyarrow.parquet.read_table(path)
    except Exception as error:  # pyarrow also raises OSError, ValueError and MemoryError for damaged files
        raise DataError(f"{path} is not a readable parquet file: {str(error)[:200]}") from error


def _json_able(path: Path, number: int, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """``record`` itself, after a check: columns are sent as JSON to engines and rewards in other processes."""
    for column, value in record.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            if isinstance(value, (dict, list)) and _has_bytes(value):
                what = f"{path}: row {number}: column {column!r} holds images themselves, not the paths of files."
                raise DataError(what, "Save each image into a file, and write its name into the column.") from error
            raise DataError(
                f"{path}: row {number}: JSON cannot represent the type of column {column!r}, {type(value).__name__}.",
                "Remove the column, or store it as text or numbers.",
            ) from error
    return record


def _has_bytes(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bytes) or any(map(_has_bytes, inside))


def _row(where: str, record: Mapping[str, Any], column: str) -> PromptRow:
    if column not in record:
        near = nearest(column, record)
        raise DataError(
            f"{where}: no column {column!r}; it has {', '.join(map(repr, record)) or 'none'}.",
            f"Set `data.prompt_column`{f' to {near}' if near else ' to the column with the prompt'}.",
        )
    prompt = record[column]
    if isinstance(prompt, list) and any(isinstance(each, dict) and "content" in each for each in prompt):
        what = f"{where}: the prompt in column {column!r} is a chat (a list of messages), not text."
        raise DataError(what, "Write the text alone: the `content` of the user's message.")
    if not isinstance(prompt, str):
        raise DataError(f"{where}: the prompt in column {column!r} must be text, not {_shown(prompt)}.")
    if not prompt.strip():
        raise DataError(f"{where}: the prompt in column {column!r} is empty.", "Remove the row or fill it in.")
    return PromptRow(prompt, {key: value for key, value in record.items() if key != column})


def _some(path: Path, rows: list[PromptRow]) -> list[PromptRow]:
    if not rows:
        raise DataError(f"{path} has no prompts.", "Write at least one.")
    return rows


def _check_keys(data: Data) -> None:
    unknown = next(iter(data.options()), None)
    if unknown:
        known = ", ".join(Data.model_fields)
        raise ConfigError(
            f"unknown key `data.{unknown}`.{did_you_mean(unknown, Data.model_fields)}", f"Known: {known}."
        )


def _check_exists(path: Path) -> None:
    if is_folder(path):
        raise DataError(f"the prompt file {path} is a folder.", "Set `data.path` to a file of prompts.")
    if not exists(path):
        near = did_you_mean(path.name, names_in(path.parent))
        raise DataError(f"the prompt file {path} does not exist.{near}", "Set `data.path` to a file of prompts.")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."
