"""What the user says: a file (or a mapping in its place) and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rl.config.layers import Source, Tree
from omni_rl.config.overrides import Override, apply_all, parse_all
from omni_rl.config.paths import Files
from omni_rl.config.yaml_file import Document, KeyPath, read
from omni_rl.errors import ConfigError
from omni_rl.plugins.local import Registry


@dataclass(frozen=True)
class Suggestion:
    """The ``defaults`` of one plugin; ``label`` is what messages call the plugin."""

    label: str
    values: Mapping[str, Any]

    def source(self, path: KeyPath) -> Source:
        """The same for every path."""
        del path
        return Source(self.label, f"the defaults of {self.label}", by="plugin")


class Input:
    """A configuration as given.

    Attributes:
        file: what messages call the whole.
        errors: overrides that are malformed.
    """

    def __init__(self, source: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> None:
        if isinstance(source, Mapping):
            self._document, self._folder = Document("the configuration", dict(source), {}), Path.cwd()
        else:
            self._document, self._folder = read(source), Path(source).absolute().parent
        self.file = self._document.file
        self._overrides: list[Override]
        self._overrides, self.errors = parse_all(overrides)

    def merged(self, suggestions: Iterable[Suggestion] = ()) -> tuple[Tree, list[ConfigError]]:
        """Suggestions (the least specific first), file and overrides in one tree, and which overrides do not fit it."""
        tree = Tree(Source("core", self.file))
        for suggestion in suggestions:
            tree.overlay(suggestion.values, suggestion.source)
        tree.overlay(self._document.data, self._written)
        return tree, apply_all(tree, self._overrides)

    def _written(self, path: KeyPath) -> Source:
        """Where the file sets a path, or the nearest thing around it that it mentions."""
        places = self._document.places
        place = next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), None)
        return Source(f"{place.file}:{place.line}", str(place)) if place else Source("given", self.file)

    def files(self, tree: Tree, path: KeyPath, registry: Registry) -> Files:
        """Where the file that the value at ``path`` names is looked for."""
        folders = [self._folder, Path.cwd()]
        return Files(folders[::-1] if tree.source(path).by == "override" else folders, registry)
