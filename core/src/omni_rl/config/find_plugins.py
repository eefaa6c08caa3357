"""Finds and loads the plugins of one configuration. Collects errors instead of stopping at the first one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from omni_rl.config.chosen import Chosen, always_on, choose, slots, with_options
from omni_rl.config.inputs import Input, Suggestion
from omni_rl.config.layers import Tree, dotted
from omni_rl.config.paths import Files, architecture_of
from omni_rl.config.plugin_defaults import applicable, defaults_of
from omni_rl.config.problems import at
from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import Algorithm, Model, PluginSection
from omni_rl.errors import ConfigError, UserError
from omni_rl.plugins.contract import Layer, LayerName
from omni_rl.plugins.local import Registry, load_file

UNIVERSAL = "universal"
"""``model.plugin: universal`` uses the universal adapter and no model plugin."""

CARRIERS: tuple[LayerName, ...] = ("model", "algorithm", "pair")
"""The hook layers that a configuration names by key."""

T = TypeVar("T")


class ConfiguredPlugins:
    """The plugins of one configuration that could be found.

    Attributes:
        tree: the configuration. The user's values alone decide which plugins are loaded; the merged values give
            their options.
        errors: all errors so far.
        plugins: section -> its plugin; ``("pair",)`` -> the pair's plugin. Sections without a plugin are absent.
        folder, architecture: of the pipeline; None when it was not found.
        data: key path of a ``data.path`` -> the prompt file.
        observers: installed plugins that observe every run.
        local: the imported local plugin files.
    """

    def __init__(self, given: Input) -> None:
        self.given = given
        self.errors: list[UserError] = list(given.errors)
        # An override may refer to something that only a plugin's defaults add, so unfit overrides are judged later.
        self.tree: Tree = given.merged()[0]
        self.plugins: dict[KeyPath, Chosen] = {}
        self.data: dict[KeyPath, Path] = {}
        self.registry = Registry()
        self.local = self._local_files()
        self.registry = self.attempt(("plugins",), Registry, self.local) or self.registry
        self.folder = self._model_folder()
        self.architecture = self.attempt(("model", "path"), architecture_of, self.folder) if self.folder else None
        self._load_carriers()
        observers = [self.attempt(None, always_on, self.registry, key) for key in self.registry.keys("plugins")]
        self.observers = [each for each in observers if each is not None]

    def attempt(self, path: KeyPath | None, function: Callable[..., T], *arguments: Any) -> T | None:
        """Call a function. If it raises a UserError, record the error and return None.

        Args:
            path: the key whose value is wrong; None when the configuration has no such key.
        """
        try:
            return function(*arguments)
        except UserError as error:
            self.errors.append(error if path is None else at(self.tree, path, error.what, error.hint, type(error)))
            return None

    def files(self, path: KeyPath) -> Files:
        """The folders to search for a file that the value at ``path`` names."""
        return self.given.files(self.tree, path, self.registry)

    def _local_files(self) -> list[ModuleType]:
        listed = self.tree.get(("plugins",))
        names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        files = self.files(("plugins",))
        modules = [self.attempt(("plugins",), load_file, files.absolute(name)) for name in names]
        return [module for module in modules if module is not None]

    def _text(self, *path: str) -> str | None:
        value = self.tree.get(path)
        return str(value) if isinstance(value, str) else None

    def _model_folder(self) -> Path | None:
        path, name = ("model", "path"), self._text("model", "path")
        hub = self.tree.get(("model", "hub")) is True
        return self.attempt(path, self.files(path).model, name, hub) if name else None

    def _load_carriers(self) -> None:
        """Load the model plugin (unless ``model.plugin`` is universal), the algorithm, and the pair if there is one."""
        algorithm, chooser = self._text("algorithm", "name"), self._text("model", "plugin")
        if self.architecture and chooser != UNIVERSAL:
            if chooser is not None:
                self._load(("model",), "plugin", "models", self.architecture, chooser)
            elif self.architecture in self.registry.keys("models"):
                self._load(("model",), "path", "models", self.architecture)
        if algorithm:
            self._load(("algorithm",), "name", "algorithms", algorithm, self._text("algorithm", "plugin"))
        pair = f"{self.architecture}:{algorithm}"
        if pair in self.registry.keys("pairs"):
            self._load(("pair",), "", "pairs", pair)

    def _load(self, section: KeyPath, name: str, kind: str, key: str, distribution: str | None = None) -> None:
        """Load a plugin; an error points at the field ``name`` of the section."""
        chosen = self.attempt((*section, name), choose, self.registry, kind, key, distribution)
        if chosen is not None:
            self.plugins[section] = chosen

    def suggestions(self) -> list[Suggestion]:
        """The ``defaults`` of all plugins with hooks, the least specific first."""
        named = [(name, self.plugins[(name,)]) for name in CARRIERS if (name,) in self.plugins]
        layers = [(chosen.label, Layer(name, chosen.object, chosen.source)) for name, chosen in named]
        layers += [(f"local {module.__file__}", Layer("local", module, str(module.__file__))) for module in self.local]
        answers = [(label, self.attempt(None, defaults_of, layer, self.architecture or "")) for label, layer in layers]
        return [Suggestion(label, applicable(answer or {}, self.tree)) for label, answer in answers]

    def add_options(self, merged: Tree) -> None:
        """Load the plugins of the other sections, and validate the options of all plugins; uses the merged values."""
        self.tree = merged
        if self.architecture and (("model",) in self.plugins or self._text("model", "plugin") in (None, UNIVERSAL)):
            self._options(("model",), Model)
        if ("algorithm",) in self.plugins:
            self._options(("algorithm",), Algorithm)
        for slot in slots(merged.data):
            self._load(slot.path, slot.name, slot.kind, slot.key, slot.distribution)
            if slot.path in self.plugins:
                self._options(slot.path, slot.section)
        for section in (("data",), ("validation", "data")):
            path, name = (*section, "path"), self._text(*section, "path")
            file = self.attempt(path, self._data_file, section, name) if name else None
            if file is not None:
                self.data[path] = file

    def _data_file(self, section: tuple[str, ...], name: str) -> Path:
        file = self.files((*section, "path")).data(name)
        if not file.suffix and self._text(*section, "format") is None:
            hint = f"set {dotted(section)}.format, for example to txt"
            raise ConfigError(f"the file name '{name}' has no suffix, so its format is unknown", hint)
        return file

    def _options(self, path: KeyPath, section: type[PluginSection]) -> None:
        validated = self.attempt(path, with_options, self.plugins.get(path), section, path, self.tree, self.files(path))
        if validated is not None:
            chosen, errors = validated
            self.errors += errors
            self.plugins.update({path: chosen} if chosen else {})
