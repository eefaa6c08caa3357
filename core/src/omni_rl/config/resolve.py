"""From a file and overrides to a :class:`Resolved` configuration.

Precedence: core < model plugin < algorithm < pair < local files < file < override.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_rl.config.algorithm_traits import traits_of
from omni_rl.config.checks import cross_checks
from omni_rl.config.find_plugins import UNIVERSAL, Gathered
from omni_rl.config.inputs import Input
from omni_rl.config.layers import Source, Tree
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
        ConfigError: keys, values or overrides are wrong, or several things of different kinds are: all in one message.
        PluginError: a plugin is missing, broken, claimed twice, or suggests what does not exist.
        ModelError: there is no pipeline at ``model.path``.
        DataError: there is no prompt file at ``data.path``.
    """
    given = Input(source, overrides)
    found = Gathered(given)
    tree, unfit = given.merged(found.suggestions())
    config, wrong = validate(Config, tree.data, tree)
    found.errors += [*unfit, *wrong]
    found.add_options(tree)
    algorithm = found.plugins.get(("algorithm",))
    answers = algorithm is not None and algorithm.is_ready
    traits = found.attempt(None, traits_of, algorithm) if answers else None
    if config is not None:
        found.errors += cross_checks(config, config.algorithm.name, traits, tree)
    raise_all(found.errors, given.file)
    assert config is not None, "a configuration without mistakes is valid"
    assert traits is not None, "and its algorithm has answered"
    return _resolved(_completed(config, found), traits, found)


def _completed(config: Config, found: Gathered) -> Config:
    """With every option of every plugin, absolute paths, and a seed."""
    completed = Tree(found.tree.source(()))
    completed.data = config.model_dump(mode="json")
    for path, chosen in found.plugins.items():
        if chosen.options is not None:
            completed.get(path).update(chosen.options.model_dump(mode="json", by_alias=True))
    for path, file in found.data.items():
        completed.get(path[:-1])[path[-1]] = str(file)
    if found.files(("model", "path")).find(config.model.path) == found.folder:  # neither shipped nor from the hub
        completed.data["model"]["path"] = str(found.folder)
    completed.data["plugins"] = [str(module.__file__) for module in found.local]
    if config.seed is None:
        completed.data["seed"] = secrets.randbelow(2**31)
        found.tree.sources["seed",] = Source("picked", found.given.file)
    return Config.model_validate(completed.data)


def _resolved(config: Config, traits: AlgorithmTraits, found: Gathered) -> Resolved:
    assert found.folder is not None
    assert found.architecture is not None
    plugins = found.plugins

    def many(*path: str) -> list[Any]:
        return [each for place, each in plugins.items() if place[:-1] == path]

    return Resolved(
        config=config,
        architecture=found.architecture,
        model_path=found.folder,
        model=plugins.get(("model",)),
        pair=plugins.get(("pair",)),
        algorithm=plugins["algorithm",],
        traits=traits,
        engine=plugins["rollout",],
        backend=plugins["train",],
        launcher=plugins["launcher",],
        dataset=plugins["data",],
        observers=found.observers,
        rewards=many("reward"),
        trackers=many("tracker"),
        validation_dataset=plugins.get(("validation", "data")) or plugins["data",],
        validation_rewards=many("validation", "reward") or many("reward"),
        local=found.local,
        registry=found.registry,
        origins=origins_of(config, found.tree, plugins),
        tree=found.tree,
    )
