"""Finds the plugins that installed distributions offer. Reads metadata and imports a plugin only when a run needs it.

The entry-point *group* is the kind, and the entry-point *name* is the key. ``OMNI_RL_DISABLE=a,b`` hides distributions
by name, ``OMNI_RL_DISABLE=*`` hides all except omni-rl itself.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata, resources
from types import MappingProxyType
from typing import Any, NamedTuple

from omni_rl._version import __version__
from omni_rl.contracts.hooks import CONTRACT_MAJOR
from omni_rl.errors import PluginError, did_you_mean, nearest
from omni_rl.plugins.blame import code_line, describe_error
from omni_rl.plugins.moved import advice, advice_on, sources_of

CORE = "omni-rl"
DISABLE = "OMNI_RL_DISABLE"
CONTRACT_GROUP = "omni_rl.contract"
CONFORMANCE_GROUP = "omni_rl.conformance"
"""An offer's key -> the class with which its distribution wants it tested by ``omni-rl conformance``."""


class Kind(NamedTuple):
    """How messages describe a kind of plugin.

    Attributes:
        word: the singular noun.
        chooser: the configuration key that chooses a distribution if several offer a key; None when there is none.
    """

    word: str
    chooser: str | None = None


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "models": Kind("model", "model.plugin"),
        "algorithms": Kind("algorithm", "algorithm.plugin"),
        "pairs": Kind("pair"),
        "engines": Kind("engine", "rollout.plugin"),
        "backends": Kind("backend"),
        "launchers": Kind("launcher", "launcher.plugin"),
        "rewards": Kind("reward", "reward.plugin"),
        "trackers": Kind("tracker", "tracker.plugin"),
        "datasets": Kind("dataset format"),
        "checkpoints": Kind("checkpoint"),
        "commands": Kind("command"),
        "plugins": Kind("observer"),
    }
)
GROUPS = (*(f"omni_rl.{kind}" for kind in KINDS), CONTRACT_GROUP, CONFORMANCE_GROUP)


@dataclass(frozen=True)
class Offer:
    """One entry point of an installed distribution.

    Attributes:
        kind: a key of ``KINDS``, the entry-point group without ``omni_rl.``.
        key: the entry point's name, which the configuration uses.
        target: ``module`` or ``module:attribute``.
    """

    kind: str
    key: str
    target: str
    distribution: str
    version: str

    @property
    def source(self) -> str:
        """``<distribution> <version>``."""
        return f"{self.distribution} {self.version}"


def normal(distribution: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def is_hidden(distribution: str) -> bool:
    """Whether ``OMNI_RL_DISABLE`` hides this distribution; omni-rl itself cannot be hidden."""
    words = {normal(word) for word in os.environ.get(DISABLE, "").split(",") if word.strip()}
    return normal(distribution) != CORE and bool(words & {"*", normal(distribution)})


def distributions() -> list[metadata.Distribution]:
    """Every installed distribution with an ``omni_rl`` entry point, hidden ones included, by name."""
    return _distributions(tuple((path, _changed(path)) for path in sys.path))


def _changed(path: str) -> int:
    """Modification time of a folder of ``sys.path``; it changes when a distribution is installed or removed."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _distributions(searched: tuple[tuple[str, int], ...]) -> list[metadata.Distribution]:
    """Cached, because reading the metadata of a full environment takes 0.1 s and a run needs it about ten times."""
    del searched
    entries = metadata.entry_points()
    groups = [group for group in entries.groups if group.startswith("omni_rl.")]
    plugins = {entry.dist for group in groups for entry in entries.select(group=group) if entry.dist is not None}
    return [each for _, each in sorted({normal(each.name): each for each in plugins}.items())]


def offers_of(plugin: metadata.Distribution) -> list[Offer]:
    """The offers of one distribution, in the order of its metadata, without repetitions."""
    name, version = plugin.name, plugin.version
    kinds = {f"omni_rl.{kind}": kind for kind in KINDS}
    entries = [each for each in plugin.entry_points if each.group in kinds]
    return list(dict.fromkeys(Offer(kinds[each.group], each.name, each.value, name, version) for each in entries))


def all_offers(kind: str | None = None) -> list[Offer]:
    """The offers of all installed distributions, including hidden ones, sorted; see :func:`offers`."""
    assert kind is None or kind in KINDS, kind
    every = (offer for plugin in distributions() for offer in offers_of(plugin) if kind in (None, offer.kind))
    return sorted(every, key=lambda offer: (offer.kind, offer.key, offer.distribution))


def offers(kind: str | None = None) -> list[Offer]:
    """The offers of installed distributions that are not hidden, of one kind or of all kinds, sorted.

    Reads metadata only. A folder that is listed twice in ``sys.path`` counts once.
    """
    return [offer for offer in all_offers(kind) if not is_hidden(offer.distribution)]


def find(kind: str, key: str, distribution: str | None = None) -> Offer:
    """The offer with this key.

    Args:
        kind: a key of ``KINDS``.
        distribution: the distribution that the configuration chooses (``model.plugin``, ``rollout.plugin``, ...).

    Raises:
        PluginError: no distribution offers the key, or several offer it and the configuration chooses none, or the
            distribution was written for another major version of the contract.
    """
    claims = [offer for offer in offers(kind) if offer.key == key]
    if distribution is not None:
        claims = [offer for offer in claims if normal(offer.distribution) == normal(distribution)]
    if not claims:
        raise _missing(kind, key, distribution)
    if len(claims) > 1:
        raise claimed_twice(claims)
    check_contract(metadata.distribution(claims[0].distribution))
    return claims[0]


def load(offer: Offer) -> Any:
    """Import the object of an offer.

    Raises:
        PluginError: the import failed for any reason; ``omni-rl plugins --check`` shows the same text.
    """
    entry = metadata.EntryPoint(offer.key, offer.target, f"omni_rl.{offer.kind}")
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise broken(offer, error) from error


def contract_of(plugin: metadata.Distribution) -> list[str]:
    """The contract majors that a distribution declares."""
    return sorted({entry.name for entry in plugin.entry_points if entry.group == CONTRACT_GROUP})


def check_contract(plugin: metadata.Distribution) -> None:
    """Raise PluginError unless a distribution declares the contract's major version of this omni-rl."""
    majors = contract_of(plugin)
    if str(CONTRACT_MAJOR) in majors:
        return
    what = f"{plugin.name} {plugin.version} "
    if not majors:
        raise PluginError(
            f"{what}does not declare the contract version that it was written for.",
            f'Add to its pyproject.toml:\n    [project.entry-points."{CONTRACT_GROUP}"]\n'
            f'    {CONTRACT_MAJOR} = "{_top_module(plugin)}"',
        )
    spoken = ", ".join(majors)
    newer = all(major.isdigit() and int(major) > CONTRACT_MAJOR for major in majors)
    install = _core_requirement(plugin) if newer else plugin.name
    lines = [
        f"Install a version of {CORE if newer else plugin.name} with contract "
        f"{spoken if newer else CONTRACT_MAJOR}: pip install --upgrade '{install}'",
        *([] if newer else advice(sources_of(_top_module(plugin)))),
    ]
    raise PluginError(
        f"{what}was written for contract {spoken}; this is omni-rl {__version__} with contract {CONTRACT_MAJOR}.",
        "\n  ".join(lines),
    )


def claimed_twice(claims: list[Offer]) -> PluginError:
    """The error for a run that needs a key which several distributions offer."""
    kind, key = KINDS[claims[0].kind], claims[0].key
    first, last = claims[0].distribution, claims[-1].distribution
    choose = f"Choose one with `{kind.chooser}: {first}`, or hide one with" if kind.chooser else "Hide one with"
    return PluginError(
        f"{kind.word} {key!r} is offered by {' and by '.join(offer.source for offer in claims)}.",
        f"{choose} {DISABLE}={last}",
    )


@cache
def known_plugins() -> dict[str, dict[str, list[str]]]:
    """The offers of this project's distributions, installed or not: {kind: {key: [distribution]}}."""
    text = resources.files("omni_rl.plugins").joinpath("known_plugins.json").read_text(encoding="utf-8")
    known: dict[str, dict[str, list[str]]] = json.loads(text)
    return known


def _top_module(plugin: metadata.Distribution) -> str:
    targets = [entry.value for entry in plugin.entry_points if entry.group in GROUPS]
    return targets[0].partition(":")[0].partition(".")[0]


def _core_requirement(plugin: metadata.Distribution) -> str:
    """The plugin's own requirement of omni-rl, e.g. ``omni-rl>=2.0``."""
    for requirement in plugin.requires or []:
        name = re.match(r"[\w.-]+", requirement)
        if name and normal(name[0]) == CORE:
            return requirement.partition(";")[0].strip()
    return CORE


def _missing(kind: str, key: str, distribution: str | None) -> PluginError:
    word, installed = KINDS[kind].word, offers(kind)
    names = {offer.key for offer in installed} | set(known_plugins().get(kind, {}))
    meant = key if key in names else nearest(key, names)
    lines = [
        *_hidden_lines(kind, {key, meant}),
        *_install_lines(kind, meant, installed),
        _installed_line(word, installed),
    ]
    if distribution is None:
        what = f"No {word} {key!r} is installed.{'' if key in names else did_you_mean(key, names)}"
    else:
        what = f"{KINDS[kind].chooser or 'the configuration'} names {distribution!r}, which offers no {word} {key!r}."
    return PluginError(what, "\n  ".join(lines))


def _hidden_lines(kind: str, keys: Iterable[str | None]) -> list[str]:
    hidden = [offer for offer in all_offers(kind) if offer.key in keys and is_hidden(offer.distribution)]
    setting = f"{DISABLE}={os.environ.get(DISABLE, '')}"
    return [f"{offer.source} offers {offer.key!r} but is hidden by {setting}; unset it." for offer in hidden]


def _install_lines(kind: str, key: str | None, installed: list[Offer]) -> list[str]:
    if key is None or key in {offer.key for offer in installed}:
        return []
    here = {normal(offer.distribution) for offer in installed}
    return [
        f"pip install {'--upgrade ' if normal(name) in here else ''}{_requirement(name, key)}"
        f"   (offers {KINDS[kind].word} {key!r})"
        for name in known_plugins().get(kind, {}).get(key, [])
        if not is_hidden(name)
    ]


def _requirement(distribution: str, key: str) -> str:
    """What pip has to install: core's extra ``key`` if it brings the distribution and all that the key needs."""
    marker = re.compile(rf"{re.escape(distribution)}\b(?!-).*extra == ['\"]{re.escape(key)}['\"]")
    brought = any(marker.match(requirement) for requirement in metadata.requires(CORE) or [])
    return f"'{CORE}[{key}]'" if brought else distribution


def _installed_line(word: str, installed: list[Offer]) -> str:
    listed = ", ".join(f"{offer.key} ({offer.source})" for offer in installed)
    return f"Installed for kind {word!r}: {listed or 'nothing'}. All plugins: omni-rl plugins"


def broken(offer: Offer, error: BaseException) -> PluginError:
    """The error for an offer whose import, or whose first use, raised ``error``."""
    lines = [
        f"entry point: [omni_rl.{offer.kind}] {offer.key} = {offer.target}",
        *describe_error(error).splitlines(),
        *advice_on(error, code_line(error)),
        f"`pip check` lists requirements that are missing or too old; then: pip install --upgrade {offer.distribution}",
    ]
    return PluginError(
        f"{offer.source} offers {KINDS[offer.kind].word} {offer.key!r} but is broken.", "\n  ".join(lines)
    )
