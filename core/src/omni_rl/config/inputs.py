"""The user's input: a YAML file (or a mapping in its place) and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rl.config.layers import SetBy, Tree
from omni_rl.config.overrides import Override, apply_all, parse_all
from omni_rl.config.paths import Files
from omni_rl.config.yaml_file import Document, KeyPath, read
from omni_rl.errors import ConfigError
from omni_rl.plugins.local import Registry


@dataclass(frozen=True)
class Suggestion:
    """The ``defaults`` of one plugin; ``label`` is the plugin's name in messages."""

    label: str
    values: Mapping[str, Any]

    def source(self, path: KeyPath) -> SetBy:
        """Says that this plugin set the value; equal for every path."""
        del path
        return SetBy(self.label, f"the defaults of {self.label}", by="plugin")


class Input:
    """A configuration as the user gave it.

    Attributes:
        file: the name of the configuration in messages.
        errors: one error per malformed override.
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
        """Merge suggestions (the least specific first), file and overrides into one tree.

        Returns:
            The tree, and an error for each override that does not fit it.
        """
        tree = Tree(SetBy("core", self.file))
        for suggestion in suggestions:
            tree.overlay(suggestion.values, suggestion.source)
        tree.overlay(self._document.data, self._written)
        return tree, apply_all(tree, self._overrides)

    def _written(self, path: KeyPath) -> SetBy:
        """Where the file sets ``path``, or else the nearest enclosing section that the file contains."""
        locations = self._document.locations
        here = next((locations[path[:n]] for n in range(len(path), 0, -1) if path[:n] in locations), None)
        return SetBy(f"{here.file}:{here.line}", str(here)) if here else SetBy("given", self.file)

    def files(self, tree: Tree, path: KeyPath, registry: Registry) -> Files:
        """The folders to search for a file that the value at ``path`` names."""
        folders = [self._folder, Path.cwd()]
        return Files(folders[::-1] if tree.source(path).by == "override" else folders, registry)
