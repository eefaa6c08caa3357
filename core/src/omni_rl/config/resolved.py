"""The resolved configuration: every value is set, and its plugins are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from omni_rl.config.chosen import Chosen
from omni_rl.config.layers import Tree, dotted
from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import AlgorithmTraits
from omni_rl.plugins.contract import LAYER_OF_KIND, Layer
from omni_rl.plugins.local import Registry


class Origin(NamedTuple):
    """An effective value and the layer that set it.

    ``layer`` is ``core``, a plugin (``algorithm omni-rl-flow-grpo 0.1.0``), ``<file>:<line>``, ``override``,
    ``given`` (a mapping instead of a file), or ``picked`` (a random seed, for ``seed: null``).
    """

    value: Any
    layer: str


@dataclass(frozen=True)
class Resolved:
    """The configuration and plugins of one run.

    Attributes:
        config: validated. Plugin sections contain every option of their plugin, and paths are absolute.
        architecture: the pipeline's class name.
        model_path: the pipeline's folder. For a hub id, a snapshot's folder, which may contain only
            ``model_index.json``.
        model: the architecture's plugin; None for the universal adapter.
        pair: the plugin for this architecture and algorithm; None when there is none.
        algorithm, engine, backend, launcher, dataset: the plugins that the configuration names.
        traits: what the algorithm, with its options, needs from the rest of the run.
        observers: installed plugins that observe every run, sorted by key.
        rewards, trackers: in the configuration's order.
        validation_dataset, validation_rewards: those of training unless the configuration names others.
        local: the imported local plugin files.
        registry: finds further plugins; local files come first.
        origins: dotted key of each value -> the layer that set it, in the order of the schema.
        tree: the merged values as written, and the places that set them.
    """

    config: Config
    architecture: str
    model_path: Path
    model: Chosen | None
    pair: Chosen | None
    algorithm: Chosen
    traits: AlgorithmTraits
    engine: Chosen
    backend: Chosen
    launcher: Chosen
    dataset: Chosen
    observers: list[Chosen]
    rewards: list[Chosen]
    trackers: list[Chosen]
    validation_dataset: Chosen
    validation_rewards: list[Chosen]
    local: list[ModuleType]
    registry: Registry
    origins: dict[str, Origin]
    tree: Tree = field(repr=False)

    def place(self, key: str) -> str:
        """The place that set a dotted key, for the start of a message: ``config.yaml:12:3``."""
        return self.tree.source(tuple(int(part) if part.isdigit() else part for part in key.split("."))).place

    def chosen(self) -> list[Chosen]:
        """Every plugin of this run except local files; the model's plugin comes first."""
        some = [self.model, self.algorithm, self.pair, self.engine, self.backend, self.launcher, self.dataset]
        always = [*(each for each in some if each is not None), *self.observers, *self.rewards, *self.trackers]
        validation = [self.validation_dataset, *self.validation_rewards]
        return [*always, *(each for each in validation if each not in always)]

    def layers(self) -> list[Layer]:
        """The hook layers above core, with instances built from their options: model, algorithm, pair, local files."""
        built = [each for each in (self.model, self.algorithm, self.pair) if each is not None]
        return [
            *(Layer(LAYER_OF_KIND[each.kind], each.instance(), each.source) for each in built),
            *(Layer("local", module, str(module.__file__)) for module in self.local),
        ]


def origins_of(config: Config, tree: Tree, plugins: Mapping[KeyPath, Chosen]) -> dict[str, Origin]:
    """The origin of each value of ``config``, by dotted key.

    Args:
        plugins: section -> the plugin whose options it contains. A value that no layer set is that plugin's default.
    """
    origins = {}
    for path, value in effective(config):
        layer = tree.sources[path].origin if path in tree.sources else _default_of(path, plugins)
        origins[dotted(path)] = Origin(value, layer)
    return origins


def _default_of(path: KeyPath, plugins: Mapping[KeyPath, Chosen]) -> str:
    """The label of the plugin that has the option at ``path``, or ``core``."""
    for depth in range(1, len(path)):
        chosen = plugins.get(path[:depth])
        if chosen is not None and chosen.options is not None and path[depth] in dict(chosen.options):
            return chosen.label
    return "core"


def effective(config: Config) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of a configuration with its path, as plain data; a list of plain values counts as one value."""
    return _leaves(config.model_dump(mode="json"), ())


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value
