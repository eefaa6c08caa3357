"""Finding and loading the plugins of one configuration, noting what is wrong instead of stopping at it."""

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
"""``model.plugin: universal`` asks for no model plugin."""

CARRIERS: tuple[LayerName, ...] = ("model", "algorithm", "pair")
"""The layers of hooks that a configuration names by key."""

T = TypeVar("T")


class Gathered:
    """The plugins of one configuration, as far as they were found.

    Attributes:
        tree: the configuration; plugins are chosen by what the user says, their options by the merged values.
        errors: what is wrong so far.
        plugins: section -> its plugin; ``("pair",)`` -> the pair's. A section without one is missing here.
        folder, architecture: the pipeline's; None when it was not found.
        data: the prompt files, by the paths of the keys that name them.
        observers: installed plugins that watch every run.
        local: local plugin files, imported.
    """

    def __init__(self, given: Input) -> None:
        self.given = given
        self.errors: list[UserError] = list(given.errors)
        # an override that does not fit what the user wrote may still fit what a plugin suggests: judged later
        self.tree: Tree = given.merged()[0]
        self.plugins: dict[KeyPath, Chosen] = {}
        self.data: dict[KeyPath, Path] = {}
        self.registry = Registry()
        self.local = self._local_files()
        self.registry = self.attempt(("plugins",), Registry, self.local) or self.registry
        self.folder = self._model_folder()
        self.architecture = self.attempt(("model", "path"), architecture_of, self.folder) if self.folder else None
        self._load_carriers()
        found = [self.attempt(None, always_on, self.registry, key) for key in self.registry.keys("plugins")]
        self.observers = [each for each in found if each is not None]

    def attempt(self, path: KeyPath | None, function: Callable[..., T], *arguments: Any) -> T | None:
        """Call a function; when it finds a mistake, note it and answer None.

        Args:
            path: the value whose mistake it is; None when it is not one of the configuration.
        """
        try:
            return function(*arguments)
        except UserError as error:
            self.errors.append(error if path is None else at(self.tree, path, error.what, error.hint, type(error)))
            return None

    def files(self, path: KeyPath) -> Files:
        """Where the file that the value at ``path`` names is looked for."""
        return self.given.files(self.tree, path, self.registry)

    def _local_files(self) -> list[ModuleType]:
        listed = self.tree.get(("plugins",))
        names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        files = self.files(("plugins",))
        found = [self.attempt(("plugins",), load_file, files.absolute(name)) for name in names]
        return [module for module in found if module is not None]

    def _text(self, *path: str) -> str | None:
        value = self.tree.get(path)
        return str(value) if isinstance(value, str) else None

    def _model_folder(self) -> Path | None:
        path, name = ("model", "path"), self._text("model", "path")
        hub = self.tree.get(("model", "hub")) is True
        return self.attempt(path, self.files(path).model, name, hub) if name else None

    def _load_carriers(self) -> None:
        """The model plugin (unless the universal adapter is meant), the algorithm, and the pair (if there is one)."""
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
        """Load a plugin; a mistake is one of the field ``name`` of its section."""
        chosen = self.attempt((*section, name), choose, self.registry, kind, key, distribution)
        if chosen is not None:
            self.plugins[section] = chosen

    def suggestions(self) -> list[Suggestion]:
        """What the plugins that carry hooks suggest for this configuration, the least specific first."""
        found = [(name, self.plugins[(name,)]) for name in CARRIERS if (name,) in self.plugins]
        asked = [(chosen.label, Layer(name, chosen.object, chosen.source)) for name, chosen in found]
        asked += [(f"local {module.__file__}", Layer("local", module, str(module.__file__))) for module in self.local]
        answers = [(label, self.attempt(None, defaults_of, layer, self.architecture or "")) for label, layer in asked]
        return [Suggestion(label, applicable(answer or {}, self.tree)) for label, answer in answers]

    def add_options(self, merged: Tree) -> None:
        """Load what the other sections name, and validate the options of all plugins, by the merged values."""
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
            raise ConfigError(f"the name '{name}' has no suffix that tells its format", hint)
        return file

    def _options(self, path: KeyPath, section: type[PluginSection]) -> None:
        checked = self.attempt(path, with_options, self.plugins.get(path), section, path, self.tree, self.files(path))
        if checked is not None:
            chosen, errors = checked
            self.errors += errors
            self.plugins.update({path: chosen} if chosen else {})
