"""Resolves a file and overrides to a :class:`Resolved` configuration.

Precedence: core < model plugin < algorithm < pair < local files < file < override.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_rl.config.algorithm_traits import traits_of
from omni_rl.config.checks import cross_checks
from omni_rl.config.find_plugins import UNIVERSAL, ConfiguredPlugins
from omni_rl.config.inputs import Input
from omni_rl.config.layers import SetBy, Tree
from omni_rl.config.problems import raise_all, validate
from omni_rl.config.resolved import Origin, Resolved, origins_of
from omni_rl.contracts.schema import Config
from omni_rl.contracts.traits import AlgorithmTraits

__all__ = ["UNIVERSAL", "Origin", "Resolved", "resolve"]


def resolve(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Resolved:
    """Read, merge and validate a configuration, and load the plugins that it needs.

    Args:
        source: a YAML file, or nested data in its place (relative paths are then relative to the working directory).
        overrides: ``key.sub=value``, see :mod:`omni_rl.config.overrides`.

    Raises:
        ConfigError: keys, values or overrides are wrong, or there are errors of several kinds; one message lists all.
        PluginError: a plugin is missing, broken, offered by several distributions, or its defaults are invalid.
        ModelError: there is no pipeline at ``model.path``.
        DataError: there is no prompt file at ``data.path``.
    """
    given = Input(source, overrides)
    configured = ConfiguredPlugins(given)
    tree, unfit = given.merged(configured.suggestions())
    config, wrong = validate(Config, tree.data, tree)
    configured.errors += [*unfit, *wrong]
    configured.add_options(tree)
    algorithm = configured.plugins.get(("algorithm",))
    answers = algorithm is not None and algorithm.is_ready
    traits = configured.attempt(None, traits_of, algorithm) if answers else None
    if config is not None:
        configured.errors += cross_checks(config, config.algorithm.name, traits, tree)
    raise_all(configured.errors, given.file)
    assert config is not None, "a configuration without errors is valid"
    assert traits is not None, "and its algorithm has answered"
    return _resolved(_completed(config, configured), traits, configured)


def _completed(config: Config, configured: ConfiguredPlugins) -> Config:
    """The configuration with every option of every plugin, absolute paths, and a seed."""
    completed = Tree(configured.tree.source(()))
    completed.data = config.model_dump(mode="json")
    for path, chosen in configured.plugins.items():
        if chosen.options is not None:
            completed.get(path).update(chosen.options.model_dump(mode="json", by_alias=True))
    for path, file in configured.data.items():
        completed.get(path[:-1])[path[-1]] = str(file)
    completed.data["model"].update(_model(config, configured))
    completed.data["plugins"] = [str(module.__file__) for module in configured.local]
    if config.seed is None:
        completed.data["seed"] = secrets.randbelow(2**31)
        configured.tree.sources["seed",] = SetBy("picked", configured.given.file)
    return Config.model_validate(completed.data)


def _model(config: Config, configured: ConfiguredPlugins) -> dict[str, Any]:
    """A path that is neither a shipped checkpoint nor a hub id becomes absolute. What lies here is not downloaded."""
    files, name = configured.files(("model", "path")), config.model.path
    if files.find(name) == configured.folder:
        return {"path": str(configured.folder), "hub": False}
    return {"hub": config.model.hub and files.checkpoint(name) is None}


def _resolved(config: Config, traits: AlgorithmTraits, configured: ConfiguredPlugins) -> Resolved:
    assert configured.folder is not None
    assert configured.architecture is not None
    plugins = configured.plugins

    def many(*section: str) -> list[Any]:
        return [each for path, each in plugins.items() if path[:-1] == section]

    return Resolved(
        config=config,
        architecture=configured.architecture,
        model_path=configured.folder,
        model=plugins.get(("model",)),
        pair=plugins.get(("pair",)),
        algorithm=plugins["algorithm",],
        traits=traits,
        engine=plugins["rollout",],
        backend=plugins["train",],
        launcher=plugins["launcher",],
        dataset=plugins["data",],
        observers=configured.observers,
        rewards=many("reward"),
        trackers=many("tracker"),
        validation_dataset=plugins.get(("validation", "data")) or plugins["data",],
        validation_rewards=many("validation", "reward") or many("reward"),
        local=configured.local,
        registry=configured.registry,
        origins=origins_of(config, configured.tree, plugins),
        tree=configured.tree,
    )
