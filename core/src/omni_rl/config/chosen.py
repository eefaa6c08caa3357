"""The plugins that a configuration names, each with its validated options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from omni_rl.config import fields
from omni_rl.config.layers import Tree
from omni_rl.config.paths import Files
from omni_rl.config.problems import unknown_key, validate
from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import Data, Launcher, PluginSection, RewardEntry, Rollout, Tracker, Train
from omni_rl.errors import PluginError, UserError
from omni_rl.plugins.discovery import DISABLE, KINDS, offers
from omni_rl.plugins.local import Registry


@dataclass(frozen=True)
class Chosen:
    """One plugin of a run.

    Attributes:
        kind: a key of ``omni_rl.plugins.discovery.KINDS``.
        key: the name in the configuration.
        object: what the entry point refers to: a class, a module or a function. A class with a ``Config`` is
            instantiated with its options.
        source: ``<distribution> <version>``, or a local file's path.
        options: its validated ``Config``; None when it has none.
        distribution: the one that the configuration names because several distributions offer the key.
    """

    kind: str
    key: str
    object: Any
    source: str
    options: BaseModel | None = None
    distribution: str | None = None

    @property
    def label(self) -> str:
        """``algorithm omni-rl-flow-grpo 0.1.0``."""
        return f"{KINDS[self.kind].word} {'plugin ' if self.kind == 'models' else ''}{self.source}"

    @property
    def is_ready(self) -> bool:
        """Whether it can be built: it takes no options, or they are valid."""
        return self.options is not None or not hasattr(self.object, "Config")

    def instance(self) -> Any:
        """The object that has the hooks: an instance of a class, built from its options if any; other objects as is."""
        if not inspect.isclass(self.object):
            return self.object
        build: Callable[..., Any] = self.object
        return build() if self.options is None else build(self.options)


class Slot(NamedTuple):
    """A section of the configuration that names a plugin; ``name`` is the field that contains the plugin's key."""

    path: KeyPath
    section: type[PluginSection]
    kind: str
    name: str
    key: str
    distribution: str | None


def slots(data: Mapping[str, Any]) -> Iterator[Slot]:
    """Every section that names a plugin without hooks. Malformed sections are skipped; validation reports them."""
    inner = data.get("validation")
    validation: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    yield from _slot(data, ("rollout",), Rollout, "engines", "engine")
    yield from _slot(data, ("train",), Train, "backends", "backend")
    yield from _slot(data, ("launcher",), Launcher, "launchers", "name")
    yield from _slot(data, ("data",), Data, "datasets", "format")
    yield from _slot(validation, ("validation", "data"), Data, "datasets", "format")
    yield from _entries(data, ("reward",), RewardEntry, "rewards")
    yield from _entries(validation, ("validation", "reward"), RewardEntry, "rewards")
    yield from _entries(data, ("tracker",), Tracker, "trackers")


def _entries(data: Mapping[str, Any], path: KeyPath, section: type[PluginSection], kind: str) -> Iterator[Slot]:
    entries = data.get(str(path[-1]))
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        yield from _slot({index: entry}, (*path, index), section, kind, "name")


def _slot(data: Mapping[Any, Any], path: KeyPath, section: type[PluginSection], kind: str, name: str) -> Iterator[Slot]:
    values = data.get(path[-1], {})
    if not isinstance(values, Mapping):
        return
    field = section.model_fields[name]
    key = values.get(name, None if field.is_required() else field.default)
    if kind == "datasets" and key is None and isinstance(values.get("path"), str):
        key = Path(values["path"]).suffix.removeprefix(".").lower() or None
    distribution = values.get("plugin")
    if isinstance(key, str) and key:
        yield Slot(path, section, kind, name, str(key), distribution if isinstance(distribution, str) else None)


def choose(registry: Registry, kind: str, key: str, distribution: str | None = None) -> Chosen:
    """Load a plugin without validating its options.

    Raises:
        PluginError: as :meth:`Registry.get`.
    """
    plugin, source = registry.get(kind, key, distribution)
    return Chosen(kind, key, plugin, source, distribution=distribution)


def always_on(registry: Registry, key: str) -> Chosen:
    """Load an observer. No configuration names it, so its options have their default values.

    Raises:
        PluginError: as :meth:`Registry.get`; says how to disable it.
    """
    try:
        chosen = choose(registry, "plugins", key)
        model = config_of(chosen, [])
        return chosen if model is None else replace(chosen, options=model())
    except PluginError as error:
        name = next((o.distribution for o in offers("plugins") if o.key == key), "")
        hint = f"It observes every run while it is installed; to run without it: export {DISABLE}={name}"
        raise PluginError(str(error), hint) from error


def with_options(
    chosen: Chosen | None, section: type[PluginSection], path: KeyPath, tree: Tree, files: Files
) -> tuple[Chosen | None, list[UserError]]:
    """Validate the section's keys that core does not know against the plugin's ``Config``.

    Relative paths become absolute. Without a plugin, or if the plugin has no ``Config``, every such key is an error.
    """
    own = list(fields.names(section))
    extra = {key: value for key, value in (tree.get(path) or {}).items() if key not in own}
    model = None if chosen is None else config_of(chosen, own)
    if chosen is None or model is None:
        return chosen, [unknown_key(tree, (*path, key), own) for key in extra]
    options, errors = validate(model, extra, tree, path, siblings=own)
    return replace(chosen, options=None if options is None else _anchored(options, files)), errors


def config_of(chosen: Chosen, taken: list[str]) -> type[BaseModel] | None:
    """A plugin's ``Config``; None when it has none.

    Raises:
        PluginError: it is not a pydantic model, ignores unknown keys, or has a key that the section already has.
    """
    model = getattr(chosen.object, "Config", None)
    if model is None:
        return None
    if not fields.is_model(model):
        raise PluginError(f"{chosen.label}: its Config is not a pydantic BaseModel")
    if model.model_config.get("extra", "ignore") == "ignore":
        hint = "write model_config = ConfigDict(extra='forbid') in it"
        raise PluginError(f"{chosen.label}: its Config would ignore misspelt keys", hint)
    clash = sorted(set(taken) & set(fields.names(model)))
    if clash:
        hint = f"core already uses these keys of the section: {', '.join(taken)}"
        raise PluginError(f"{chosen.label}: its Config has the key '{clash[0]}', which core uses; rename it", hint)
    return model  # type: ignore[no-any-return]


def _anchored(options: BaseModel, files: Files) -> BaseModel:
    paths = {name: value for name, value in options if isinstance(value, Path) and not value.is_absolute()}
    return options.model_copy(update={name: files.absolute(value) for name, value in paths.items()})
