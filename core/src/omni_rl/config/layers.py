"""Merges layers of nested values into one tree, which records the layer that set each value.

Mappings merge key by key. The more specific layer replaces every other value as a whole, lists included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import named, named_list

NAMED_LISTS: tuple[KeyPath, ...] = (("reward",), ("validation", "reward"), ("tracker",))
"""Lists of plugins. They have short forms: ``reward: ocr`` and ``reward: {name: ocr}`` both mean one entry."""


@dataclass(frozen=True)
class SetBy:
    """The layer that set a value.

    Attributes:
        origin: for ``omni-rl config --explain``: ``config.yaml:12``, ``override``, ``algorithm omni-rl-flow-grpo 0.1``.
        place: the start of an error message about the value, e.g. ``config.yaml:12:3``.
        by: ``file`` (a file or mapping), ``override``, or ``plugin`` (a plugin's ``defaults``).
    """

    origin: str
    place: str
    by: str = "file"


def dotted(path: KeyPath) -> str:
    """``path`` as messages and overrides write it: ``reward.0.weight``."""
    return ".".join(map(str, path))


class Tree:
    """The merged values.

    Attributes:
        data: nested plain data; lists of plugins are lists of mappings.
        sources: for each key that a layer contains, the layer that set it.
    """

    def __init__(self, root: SetBy) -> None:
        self.data: dict[str, Any] = {}
        self.sources: dict[KeyPath, SetBy] = {(): root}

    def overlay(self, values: Mapping[str, Any], source: Callable[[KeyPath], SetBy], path: KeyPath = ()) -> None:
        """Merge a more specific layer into the tree; ``source`` maps each of its paths to the layer that set it."""
        for key, value in values.items():
            here = (*path, str(key))
            if isinstance(value, Mapping) and isinstance(self.get(here), dict):
                self.sources[here] = source(here)
                self.overlay(value, source, here)
            else:
                self.put(here, value, source)

    def put(self, path: KeyPath, value: Any, source: Callable[[KeyPath], SetBy]) -> None:
        """Replace the value at ``path``, whose parent exists."""
        if path in self.sources:
            self.sources = {known: by for known, by in self.sources.items() if known[: len(path)] != path}
        self.get(path[:-1])[path[-1]] = self._marked(value, path, source)

    def _marked(self, value: Any, path: KeyPath, source: Callable[[KeyPath], SetBy]) -> Any:
        """A copy of ``value`` with plugin lists in their long form; records the source of every path in it."""
        self.sources[path] = source(path)
        if path in NAMED_LISTS:
            if isinstance(value, Mapping):  # without the list dash, its keys are one level higher in the file
                written = source
                source = lambda here: written((*path, *here[len(path) + 1 :]))  # noqa: E731
            value = named_list(value)
        if path == ("launcher",) or path[:-1] in NAMED_LISTS:
            value = named(value)
        if isinstance(value, Mapping):
            return {str(key): self._marked(item, (*path, str(key)), source) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._marked(item, (*path, index), source) for index, item in enumerate(value)]
        return value

    def get(self, path: KeyPath) -> Any:
        """The value at ``path``, or None where there is none."""
        value: Any = self.data
        for key in path:
            inside = isinstance(value, list) and isinstance(key, int) and key < len(value)
            value = value[key] if inside else value.get(key) if isinstance(value, dict) else None
        return value

    def source(self, path: KeyPath) -> SetBy:
        """The layer that set ``path``, or else the nearest enclosing section that a layer contains."""
        return next(self.sources[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.sources)
