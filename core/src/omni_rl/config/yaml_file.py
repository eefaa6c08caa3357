"""Reads YAML for the configuration. Records the line and column of every key.

The scalar types are those of YAML 1.2, because PyYAML's YAML 1.1 reads ``1e-3`` as text, ``no`` as false, ``1:30`` as
90, ``010`` as 8 and ``2025-01-01`` as a date. Numbers may contain underscores (``10_000``). An unquoted ``yes``,
``no``, ``on`` or ``off`` becomes an :class:`AmbiguousWord`: text, unless the key takes a boolean. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omni_rl.contracts.input_files import CONFIGURATION, DEPTH, DIGITS, exists, flaw, names_in, read_regular
from omni_rl.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""The keys and list indices that lead to a value: ``("reward", 0, "weight")``."""

NODES = 5000
"""Largest number of keys and values, counted after aliases and merge keys are expanded."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("null", "bool", "int", "float", "str", "word")}
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("word", r"(?i:yes|no|on|off)", "yYnNoO"),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)


class AmbiguousWord(str):
    """An unquoted ``yes``, ``no``, ``on`` or ``off``; an error for a key whose type is not known."""


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalar types of YAML 1.2, and limits of depth and size."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One node and all below it; counts both directions."""
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._limit(self.depth > DEPTH, f"values are nested more than {DEPTH} deep", mark)
        self._limit(self.nodes > 2 * NODES, f"there are more than {NODES} values", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Expand the merge keys of a mapping."""
        super().flatten_mapping(node)
        self._limit(len(node.value) > NODES, f"merge keys give more than {NODES} keys", node.start_mark)

    def _limit(self, exceeded: bool, what: str, mark: yaml.Mark) -> None:
        if exceeded:
            raise yaml.composer.ComposerError(None, None, what, mark)


class Dumper(yaml.SafeDumper):
    """Quotes every text that our loader or a YAML 1.1 reader would not read back as text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value in full, without anchors and aliases."""
        return True


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.yaml_implicit_resolvers = {}
Dumper.yaml_implicit_resolvers = {first: list(known) for first, known in Dumper.yaml_implicit_resolvers.items()}
for _kind, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, Dumper):
        # a NUL stands for the empty scalar, whose "first character" PyYAML calls ''
        _starts = ["" if c == "\0" else c for c in _first]
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _starts)
_Loader.add_constructor(_TAG + "int", _int)
_Loader.add_constructor(_TAG + "word", lambda loader, node: AmbiguousWord(node.value))


@dataclass(frozen=True)
class Location:
    """A position in a file, both counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, and the location of each key and list item.

    ``locations[()]`` is the start of the document.
    """

    file: str
    data: dict[str, Any]
    locations: dict[KeyPath, Location]


class _Reader:
    """Turns PyYAML's nodes into data and locations; refuses tags, duplicate keys and recursive aliases."""

    def __init__(self, loader: _Loader, file: str, lines: list[str]) -> None:
        self.loader, self.file, self.lines = loader, file, lines
        self.locations: dict[KeyPath, Location] = {}
        self.open: list[yaml.Node] = []
        self.values = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if node in self.open:
            raise self.error(node.start_mark, "an alias (*name) that contains itself")
        self.values += 1
        if self.values > NODES:
            raise self.error(node.start_mark, f"there are more than {NODES} values, with aliases expanded")
        self.open.append(node)
        try:
            return self._value(node, path)
        finally:
            self.open.pop()

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return {key: self.value(value, (*path, key)) for key, value in self.items(node, path)}
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            for index, item in enumerate(node.value):
                self.locations[*path, index] = self.location(item.start_mark)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self.scalar(node)
        raise self.error(node.start_mark, f"the tag {node.tag.replace(_TAG, '!!')} is not supported")

    def scalar(self, node: yaml.ScalarNode) -> Any:
        wrong = flaw(node.value)
        if wrong is not None:
            raise self.error(node.start_mark, f"{wrong} is not allowed")
        if node.tag == _TAG + "int" and len(node.value) > DIGITS:
            raise self.error(node.start_mark, f"a number of {len(node.value)} digits is too long")
        try:
            return self.loader.construct_object(node)
        except ValueError:  # an explicit tag that does not fit the text
            raise self.error(node.start_mark, f"{node.value[:60]!r} does not have the type of its tag") from None

    def items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        """Keys and values in order. Expands merge keys (<<) and refuses duplicate keys."""
        written: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node.start_mark, "a key must be text")
            if key_node.value in written and key_node.tag != _TAG + "merge":
                name, first = ".".join(map(str, (*path, key_node.value))), written[key_node.value]
                raise self.error(key_node.start_mark, f"the key '{name}' is also set in line {first}; keep one")
            written[key_node.value] = key_node.start_mark.line + 1
        self.loader.flatten_mapping(node)
        last = {key_node.value: (key_node, value) for key_node, value in node.value}  # merged ones come first
        for key, (key_node, value) in last.items():
            self.locations[*path, key] = self.location(key_node.start_mark)
            yield key, value

    def location(self, mark: yaml.Mark) -> Location:
        return Location(self.file, mark.line + 1, mark.column + 1)

    def error(self, mark: yaml.Mark, what: str, hint: str | None = None) -> ConfigError:
        return ConfigError(f"{self.location(mark)}: {what}\n{_shown(self.lines, mark)}", hint)


SHOWN = 120
"""At most this many characters of a line are shown."""


def _line(lines: list[str], mark: yaml.Mark) -> str:
    return lines[mark.line] if mark.line < len(lines) else ""


def _shown(lines: list[str], mark: yaml.Mark) -> str:
    """The text of the line at ``mark``, with a caret under the column."""
    start = max(0, mark.column - SHOWN // 2) if mark.column > SHOWN - 20 else 0
    part = _line(lines, mark)[start : start + SHOWN]
    return f"    {part}\n    {' ' * (mark.column - start)}^"


def _hint(why: str) -> str | None:
    if "'\\t'" in why:
        return "indent with spaces: YAML does not allow tabs"
    return "put text that holds ': ' in quotes" if "mapping values are not allowed" in why else None


def parse(text: str, file: str) -> tuple[Any, dict[KeyPath, Location]]:
    """The data in ``text`` and the location of every key; ``file`` is the file's name in messages.

    Raises:
        ConfigError: invalid YAML, a duplicate key, or a tag; shows line, column and the text of the line.
    """
    lines = text.splitlines()
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{file}:{line}: the character U+{error.character:04X} is not allowed in YAML") from None
    reader = _Reader(loader, file, lines)
    try:
        node = loader.get_single_node()
        return (None if node is None else reader.value(node, ())), reader.locations
    except yaml.MarkedYAMLError as error:
        raise _broken(error, reader) from None
    finally:
        loader.dispose()


def _broken(error: yaml.MarkedYAMLError, reader: _Reader) -> ConfigError:
    """PyYAML's error with the line to fix: if a bracket is never closed, the line of the opening bracket."""
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None]
    mark = next((mark for mark in marks if _line(reader.lines, mark).strip()), marks[0])
    why = ", ".join(part for part in (error.context, error.problem) if part)
    return reader.error(mark, f"this is not valid YAML: {why}", _hint(why))


def read(path: str | Path) -> Document:
    """Read a configuration file.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, not YAML, empty, or has no sections.
    """
    file = str(path)
    data, locations = parse(_text(Path(path)), file)
    if data is None:
        raise ConfigError(f"{file} is empty", "it needs at least the sections model, algorithm, reward and data")
    if not isinstance(data, dict):
        raise ConfigError(f"{file} has no sections", "a section looks like this: model: {path: ./my-pipeline}")
    return Document(file, data, {(): Location(file, 1, 1), **locations})


def _text(path: Path) -> str:
    if not exists(path):
        raise ConfigError(f"there is no file {path}{_similar(path)}", "give the path of a YAML file")
    try:
        return read_regular(path, CONFIGURATION, ConfigError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(error.what, "give the path of a YAML file") from None


def _similar(path: Path) -> str:
    """The YAML files in the folder of the missing file, for a message."""
    names = [name for name in names_in(path.parent) if name.endswith((".yaml", ".yml"))]
    return f" (that folder contains {', '.join(names[:5])})" if names else ""
