"""Find the plugins of a distribution that have a contract suite, and the fixtures of each suite.

The fixtures come from a class of the distribution, named in the entry-point group ``omni_rl.conformance`` under the
plugin's key; it inherits the suite of the kind. Without such a class they come from :mod:`omni_rl_testing.offered`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from omni_rl.config import fields
from omni_rl.config.chosen import Chosen, with_options
from omni_rl.config.layers import SetBy, Tree
from omni_rl.config.overrides import Override, apply, parse_override
from omni_rl.config.paths import Files, architecture_of, is_family
from omni_rl.config.yaml_file import KeyPath
from omni_rl.contracts import schema
from omni_rl.errors import ConfigError, ModelError, PluginError, UserError, did_you_mean
from omni_rl.plugins.discovery import (
    CONFORMANCE_GROUP,
    DISABLE,
    KINDS,
    Offer,
    check_contract,
    distributions,
    is_hidden,
    known_plugins,
    load,
    normal,
    offers_of,
)
from omni_rl.plugins.local import Registry
from omni_rl.plugins.probe import problem


class Section(NamedTuple):
    """Where a configuration has the options of a kind: the section's path and schema, and the key with the plugin's
    name.
    """

    path: KeyPath
    model: type[schema.PluginSection]
    name: str


SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "models": Section(("model",), schema.Model, "path"),
        "algorithms": Section(("algorithm",), schema.Algorithm, "name"),
        "rewards": Section(("reward", 0), schema.RewardEntry, "name"),
        "engines": Section(("rollout",), schema.Rollout, "engine"),
        "backends": Section(("train",), schema.Train, "backend"),
        "trackers": Section(("tracker", 0), schema.Tracker, "name"),
        "launchers": Section(("launcher",), schema.Launcher, "name"),
    }
)
"""The kinds that have a suite."""

TAKE_ANY_MODEL = frozenset({"engines", "backends"})
"""The kinds whose suite uses the caller's pipeline folder, of any architecture."""


@dataclass(frozen=True)
class Subject:
    """One plugin under test.

    Attributes:
        offer: its entry point.
        problem: why it cannot be used; None if it can.
        missing: what the suite needs from the caller, and how to give it; None if nothing.
        unsuited: why no suite applies to it; None if one does.
        chosen: the object of the entry point, with its options.
        declared: the distribution's own class that inherits the suite; None for the default fixtures.
        model: a pipeline folder for the suite; None if none was given and no shipped checkpoint fits.
        call: arguments for the pipeline's ``__call__``.
        ranks: whether it is also tested on two ranks.
    """

    offer: Offer
    problem: str | None = None
    missing: str | None = None
    unsuited: str | None = None
    chosen: Chosen | None = None
    declared: metadata.EntryPoint | None = None
    model: Path | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    ranks: bool = False

    def __str__(self) -> str:
        return f"{KINDS[self.offer.kind].word} {self.offer.key}"


@dataclass(frozen=True)
class Given:
    """The caller's arguments: pipeline folders by architecture, and overrides."""

    folders: Mapping[str, Path]
    overrides: Sequence[Override]
    ranks: bool


def subjects(
    distribution: str,
    *,
    kinds: Sequence[str] = (),
    keys: Sequence[str] = (),
    models: Sequence[str] = (),
    overrides: Sequence[str] = (),
    ranks: bool = False,
) -> list[Subject]:
    """Import all plugins of an installed distribution.

    Args:
        distribution: its name, in any spelling that pip accepts.
        kinds: words such as ``reward``; empty: all kinds.
        keys: entry-point names; empty: all.
        models: pipeline folders or names of shipped checkpoints.
        overrides: ``section.key=value``, options of the plugin as in a configuration, and ``rollout.call.key=value``.
        ranks: also test models and backends on two ranks.

    Raises:
        UserError: there is no such distribution or plugin, or an argument cannot be used.
    """
    plugin = _installed(distribution)
    check_contract(plugin)
    selected = _selected(plugin, kinds, keys)
    given = Given(_folders(models), [parse_override(text) for text in overrides], ranks)
    _check_folders(given.folders, selected)
    _check_overrides(given.overrides, {offer.kind for offer in selected}, plugin.name)
    declared = {entry.name: entry for entry in plugin.entry_points if entry.group == CONFORMANCE_GROUP}
    return [_subject(offer, given, declared.get(offer.key)) for offer in selected]


# ------------------------------------------------------------------------------------------------------- what to test


def _installed(distribution: str) -> metadata.Distribution:
    installed = {normal(each.name): each for each in distributions()}
    plugin = installed.get(normal(distribution))
    if plugin is None:
        raise _not_installed(distribution, list(installed))
    if is_hidden(plugin.name):
        raise PluginError(f"{plugin.name} is hidden by {DISABLE}", f"unset {DISABLE}")
    return plugin


def _not_installed(distribution: str, installed: Sequence[str]) -> PluginError:
    known = {name for keys in known_plugins().values() for names in keys.values() for name in names}
    if normal(distribution) in known:
        return PluginError(f"{distribution} is not installed", f"pip install {normal(distribution)}")
    near = did_you_mean(normal(distribution), installed)
    return PluginError(
        f"no installed distribution {distribution!r} has plugins for omni-rl.{near}",
        f"installed: {', '.join(installed)}. for a package in development: pip install -e FOLDER",
    )


def _selected(plugin: metadata.Distribution, kinds: Sequence[str], keys: Sequence[str]) -> list[Offer]:
    offered = offers_of(plugin)
    words = [KINDS[kind].word for kind in SECTIONS]
    for kind in kinds:
        if kind not in words:
            near = did_you_mean(kind, words)
            raise UserError(f"there is no suite for the kind {kind!r}.{near}", f"kinds: {', '.join(words)}")
    for key in keys:
        if key not in {offer.key for offer in offered}:
            near = did_you_mean(key, [offer.key for offer in offered])
            raise UserError(f"{plugin.name} offers no {key!r}.{near}", f"it offers {_listed(offered)}")
    selected = [o for o in offered if (not kinds or KINDS[o.kind].word in kinds) and (not keys or o.key in keys)]
    if not selected:
        wanted = " or ".join(kinds) or "thing"
        raise UserError(f"{plugin.name} offers no such {wanted}", f"it offers {_listed(offered) or 'nothing'}")
    return selected


def _listed(offered: Sequence[Offer]) -> str:
    return ", ".join(f"the {KINDS[offer.kind].word} {offer.key}" for offer in offered)


# ---------------------------------------------------------------------------------------------- what a suite is given


def _folders(models: Sequence[str]) -> dict[str, Path]:
    """Pipeline folders by architecture."""
    folders = [_files().model(name, hub=False) for name in models]
    return {architecture_of(folder): folder for folder in folders}


def _check_folders(folders: Mapping[str, Path], selected: Sequence[Offer]) -> None:
    """Raise ModelError for a pipeline folder that no suite would use."""
    if any(offer.kind in TAKE_ANY_MODEL for offer in selected):
        return
    for architecture, folder in folders.items():
        if architecture not in {offer.key for offer in selected if offer.kind == "models"}:
            what = f"--model {folder} is a {architecture}, but the tested plugins are {_listed(selected)}"
            raise ModelError(what, "give a pipeline of a tested model, or omit --model")


def _files() -> Files:
    return Files([Path.cwd()], Registry())


def _check_overrides(overrides: Sequence[Override], kinds: set[str], distribution: str) -> None:
    """Raise ConfigError for an override that no suite would use, because the report would not test what the caller
    wants.
    """
    sections = {str(SECTIONS[kind].path[0]): SECTIONS[kind] for kind in SECTIONS if kind in kinds}
    for override in overrides:
        if override.path[:2] == ("rollout", "call") and kinds & {"models", *TAKE_ANY_MODEL}:
            continue
        section = sections.get(str(override.path[0]))
        if section is None or len(override.path) < 2:
            hint = " or ".join(f"{name}.OPTION=VALUE" for name in sections) or "none applies here"
            raise ConfigError(f"{override.place} is not an option of a plugin of {distribution}", f"options: {hint}")
        if override.path[1] in fields.names(section.model):
            raise ConfigError(f"{override.place}: the suite itself sets this", "give only options of the plugin")


def _subject(offer: Offer, given: Given, entry: metadata.EntryPoint | None) -> Subject:
    broken = problem(offer)
    if broken is not None or offer.kind not in SECTIONS:
        unsuited = None if offer.kind in SECTIONS else f"there is no suite for a {KINDS[offer.kind].word}"
        return Subject(offer, problem=broken, unsuited=unsuited)
    tree = _tree(offer, given)
    chosen, lacking = _chosen(offer, tree, given)
    folder = _folder(offer, given.folders)
    declared = entry if folder is None else None
    if offer.kind == "models" and folder is None and declared is None:
        folder = _of_a_family(offer.key)
    if declared is not None and given.overrides:
        what = f"{offer.distribution} has its own fixtures for {offer.key}, which use no overrides"
        raise ConfigError(what, "omit the overrides, or select another plugin with --key")
    return Subject(
        offer,
        missing=lacking or _missing_model(offer, folder, entry),
        chosen=chosen,
        declared=declared,
        model=folder,
        call=(tree.get(("rollout",)) or {}).get("call", {}),
        ranks=given.ranks,
    )


def _of_a_family(member: str) -> Path | None:
    """The folder of the member ``member`` in any family of shipped checkpoints; None when there is none."""
    files = _files()
    for key in files.registry.keys("checkpoints"):
        with contextlib.suppress(UserError):
            if is_family(files.registry.get("checkpoints", key)[0]):
                return files.checkpoint(f"{key}/{member}")
    return None


def _tree(offer: Offer, given: Given) -> Tree:
    """The sections of a configuration with this plugin that overrides may change."""
    section, tree = SECTIONS[offer.kind], Tree(SetBy("offer", offer.source))
    named = {section.name: offer.key}
    tree.overlay({str(section.path[0]): [named] if section.path[1:] else named}, lambda _: tree.source(()))
    for override in given.overrides:
        apply(tree, override)
    return tree


def _chosen(offer: Offer, tree: Tree, given: Given) -> tuple[Chosen, str | None]:
    """The plugin with its options, and the name of a required option that is missing.

    Raises:
        ConfigError: an override is not one of its options.
    """
    section = SECTIONS[offer.kind]
    bare = Chosen(offer.kind, offer.key, load(offer), offer.source)
    chosen, errors = with_options(bare, section.model, section.path, tree, _files())
    if errors and any(override.path[0] == section.path[0] for override in given.overrides):
        hint = f"if it is for another plugin of {offer.distribution}: --key KEY"
        raise ConfigError("\n".join(error.what for error in errors), hint)
    hint = f"  give it with omni-rl conformance {offer.distribution} {section.path[0]}.OPTION=VALUE"
    return chosen or bare, "\n".join([*(error.what for error in errors), hint]) if errors else None


def _folder(offer: Offer, folders: Mapping[str, Path]) -> Path | None:
    """The folder for a suite: of its architecture for a model, the caller's for ``TAKE_ANY_MODEL``, else none."""
    if offer.kind == "models":
        return folders.get(offer.key)
    return next(iter(folders.values()), None) if offer.kind in TAKE_ANY_MODEL else None


def _missing_model(offer: Offer, folder: Path | None, entry: metadata.EntryPoint | None) -> str | None:
    if offer.kind != "models" or folder or entry:
        return None
    return (
        f"the suite needs a {offer.key}; it may be small and have random weights\n"
        f"  --model FOLDER, written by save_pretrained; a package can have its own, with the entry point"
        f" {CONFORMANCE_GROUP};\n  omni-rl-tiny has one for many architectures: pip install omni-rl-tiny"
    )
