"""Overrides on the command line: ``key.sub=value``, the value being YAML.

As in a file, a mapping merges into the section that it names and everything else replaces what stood there.
``reward.0.weight=2`` reaches into a list; the index may be left out while the list has one entry. ``key=null`` sets
null, which switches off what may be absent (``train.ema=null``) and leaves a pipeline argument to the pipeline
(``rollout.call.height=null``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omni_rl.config.layers import Source, Tree, dotted
from omni_rl.config.yaml_file import KeyPath, parse
from omni_rl.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_EXAMPLE = "write key.sub=value, for example train.lr=1e-3 or reward.0.weight=2"


@dataclass(frozen=True)
class Override:
    """One parsed override; ``text`` is what the user typed."""

    text: str
    path: KeyPath
    value: Any

    @property
    def place(self) -> str:
        """How messages point at it."""
        return f"override '{self.text}'"


def parse_override(text: str) -> Override:
    """Parse ``key.sub=value``.

    Raises:
        ConfigError: no ``=``, no key, no value, or a value that is not YAML; with an example.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    place = f"override '{text}'"
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(f"{place} is not of the form key.sub=value", _EXAMPLE)
    if not value:
        raise ConfigError(f"{place} has no value", f"write {key}=null for nothing, or \"{key}=''\" for an empty text")
    path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    return Override(text, path, parse(value, place)[0])


def parse_all(texts: Sequence[str]) -> tuple[list[Override], list[ConfigError]]:
    """Parse each, and return why some could not be parsed."""
    parsed, failed = [], []
    for text in texts:
        try:
            parsed.append(parse_override(text))
        except ConfigError as error:
            failed.append(error)
    return parsed, failed


def apply(tree: Tree, override: Override) -> None:
    """Set what the override names.

    Raises:
        ConfigError: it reaches into a value that has no keys, or for a list entry that does not exist.
    """
    source = Source("override", override.place, by="override")
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
    """Apply each in order, and return why some could not be applied."""
    failed = []
    for override in overrides:
        try:
            apply(tree, override)
        except ConfigError as error:
            failed.append(error)
    return failed


def _step(parent: Any, path: KeyPath, key: str | int, override: Override) -> KeyPath:
    """``path`` and one key more, or two when the index of a list's only entry was left out."""
    if isinstance(parent, dict):
        return (*path, str(key))
    if not isinstance(parent, list):
        raise ConfigError(f"{override.place}: {dotted(path)} is a value and has no key '{key}'")
    if isinstance(key, str) and len(parent) == 1 and isinstance(parent[0], dict):
        return (*path, 0, key)
    if isinstance(key, str) or key >= len(parent):
        entries = "1 entry" if len(parent) == 1 else f"{len(parent)} entries"
        raise ConfigError(f"{override.place}: {dotted(path)} has {entries}, counted from 0; say which", _EXAMPLE)
    return (*path, key)
