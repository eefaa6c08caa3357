"""Overrides on the command line: ``key.sub=value``, where the value is YAML.

As in a file, a mapping merges into its section, and any other value replaces the previous one. ``reward.0.weight=2``
sets a key of a list entry; the index may be omitted if the list has one entry. ``key=null`` sets null: it switches off
an optional section (``train.ema=null``), and uses the pipeline's own default for one of its arguments
(``rollout.call.height=null``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omni_rl.config.layers import SetBy, Tree, dotted
from omni_rl.config.yaml_file import KeyPath, parse
from omni_rl.contracts.input_files import CONFIGURATION, flaw
from omni_rl.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_LEVELS = 20
_EXAMPLE = "write key.sub=value, for example train.lr=1e-3 or reward.0.weight=2"


@dataclass(frozen=True)
class Override:
    """One parsed override; ``text`` is the user's own text."""

    text: str
    path: KeyPath
    value: Any

    @property
    def place(self) -> str:
        """The start of a message about this override."""
        return _place(self.text)


def _place(text: str) -> str:
    return f"override '{text if len(text) <= 80 else f'{text[:77]}...'}'"


def parse_override(text: str) -> Override:
    """Parse ``key.sub=value``.

    Raises:
        ConfigError: there is no ``=``, no key or no value, or the value is not YAML; gives an example.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    place, wrong = _place(text), flaw(text)
    if wrong is not None or len(text) > CONFIGURATION:
        raise ConfigError(f"{place} contains {wrong}" if wrong else f"{place} is too long", _EXAMPLE)
    if not equals or not _KEY.fullmatch(key) or key.count(".") >= _LEVELS:
        raise ConfigError(f"{place} is not of the form key.sub=value", _EXAMPLE)
    if not value:
        raise ConfigError(f"{place} has no value", f"write {key}=null for null, or \"{key}=''\" for an empty text")
    path = tuple(int(part) if part.isdecimal() and len(part) <= 9 else part for part in key.split("."))
    return Override(text, path, parse(value, place)[0])


def parse_all(texts: Sequence[str]) -> tuple[list[Override], list[ConfigError]]:
    """Parse each text; also returns an error for each that could not be parsed."""
    parsed, failed = [], []
    for text in texts:
        try:
            parsed.append(parse_override(text))
        except ConfigError as error:
            failed.append(error)
    return parsed, failed


def apply(tree: Tree, override: Override) -> None:
    """Apply one override to the tree.

    Raises:
        ConfigError: the key is inside a value that is not a section, or the list entry does not exist.
    """
    source = SetBy("override", override.place, by="override")
    path: KeyPath = ()
    for key in override.path:
        if tree.get(path) is None:
            tree.put(path, {}, lambda _: source)
        path = _step(tree.get(path), path, key, override)
    if isinstance(override.value, Mapping) and isinstance(tree.get(path), dict):
        tree.sources[path] = source
        tree.overlay(override.value, lambda _: source, path)
    else:
        tree.put(path, override.value, lambda _: source)


def apply_all(tree: Tree, overrides: Sequence[Override]) -> list[ConfigError]:
    """Apply each override in order; returns an error for each that could not be applied."""
    failed = []
    for override in overrides:
        try:
            apply(tree, override)
        except ConfigError as error:
            failed.append(error)
    return failed


def _step(parent: Any, path: KeyPath, key: str | int, override: Override) -> KeyPath:
    """``path`` extended by ``key``, and before it by index 0 if the index of a list's only entry was omitted."""
    if isinstance(parent, dict):
        return (*path, str(key))
    if not isinstance(parent, list):
        raise ConfigError(f"{override.place}: {dotted(path)} is a value and has no key '{key}'")
    if isinstance(key, str) and len(parent) == 1 and isinstance(parent[0], dict):
        return (*path, 0, key)
    if isinstance(key, str) or key >= len(parent):
        entries = "1 entry" if len(parent) == 1 else f"{len(parent)} entries"
        raise ConfigError(f"{override.place}: {dotted(path)} has {entries}; give the entry's index (from 0)", _EXAMPLE)
    return (*path, key)
