"""Layers of nested values merged into one tree that remembers who set what.

Mappings merge key by key; everything else, lists included, is replaced as a whole by the more specific layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import named, named_list

NAMED_LISTS: tuple[KeyPath, ...] = (("reward",), ("validation", "reward"), ("tracker",))
"""Lists of plugins, which may be written short: ``reward: ocr`` and ``reward: {name: ocr}`` mean one entry."""


@dataclass(frozen=True)
class Source:
    """Who set a value.

    Attributes:
        origin: for ``omni-rl config --explain``: ``config.yaml:12``, ``override``, ``algorithm omni-rl-flow-grpo 0.1``.
        place: for the start of an error message, e.g. ``config.yaml:12:3``.
        by: a file or mapping, an override, or a plugin's ``defaults``.
    """

    origin: str
    place: str
    by: str = "file"


def dotted(path: KeyPath) -> str:
    """``reward.0.weight``: how messages and overrides spell a path."""
    return ".".join(map(str, path))


class Tree:
    """The merged values.

    Attributes:
        data: nested plain data; lists of plugins are lists of mappings.
        sources: who set each key that some layer mentions.
    """

    def __init__(self, root: Source) -> None:
        self.data: dict[str, Any] = {}
        self.sources: dict[KeyPath, Source] = {(): root}

    def overlay(self, values: Mapping[str, Any], source: Callable[[KeyPath], Source], path: KeyPath = ()) -> None:
        """Lay a more specific layer on top; ``source`` says for each of its paths who set it."""
        for key, value in values.items():
            here = (*path, str(key))
            if isinstance(value, Mapping) and isinstance(self.get(here), dict):
                self.sources[here] = source(here)
                self.overlay(value, source, here)
            else:
                self.put(here, value, source)

    def put(self, path: KeyPath, value: Any, source: Callable[[KeyPath], Source]) -> None:
        """Replace what stands at ``path``, whose parent exists."""
        self.sources = {known: by for known, by in self.sources.items() if known[: len(path)] != path}
        self.get(path[:-1])[path[-1]] = self._marked(value, path, source)

    def _marked(self, value: Any, path: KeyPath, source: Callable[[KeyPath], Source]) -> Any:
        """A copy of ``value``, plugin lists in their long form; every path in it is noted."""
        self.sources[path] = source(path)
        if path in NAMED_LISTS:
            if isinstance(value, Mapping):  # written without the dash: its keys stand one level higher in the file
                written = source
                source = lambda here: written((*path, *here[len(path) + 1 :]))  # noqa: E731
            value = named_list(value)
        if path == ("launcher",):
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

    def source(self, path: KeyPath) -> Source:
        """Who set ``path``, or the nearest section around it that anyone mentions."""
        return next(self.sources[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.sources)
