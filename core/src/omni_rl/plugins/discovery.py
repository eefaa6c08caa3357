"""Which installed distribution offers what: read from metadata, so that nothing is imported until a run needs it.

The entry-point *group* is the kind and the entry-point *name* is the lookup key. ``OMNI_RL_DISABLE=a,b`` hides
distributions by name, ``OMNI_RL_DISABLE=*`` hides all but omni-rl itself.
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
from omni_rl.plugins.blame import place, summary
from omni_rl.plugins.moved import advice, advice_on, sources_of

CORE = "omni-rl"
DISABLE = "OMNI_RL_DISABLE"
CONTRACT_GROUP = "omni_rl.contract"
CONFORMANCE_GROUP = "omni_rl.conformance"
"""An offer's key -> the class with which its distribution wants it tested by ``omni-rl conformance``."""


class Kind(NamedTuple):
    """How a kind of plugin is spoken of.

    Attributes:
        word: singular, for messages.
        chooser: the configuration key that names a distribution when several claim a key; None when there is none.
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
        key: the entry point's name, by which the configuration asks for it.
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
    """The comparable form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def is_hidden(distribution: str) -> bool:
    """Whether ``OMNI_RL_DISABLE`` hides this distribution; omni-rl itself cannot be hidden."""
    words = {normal(word) for word in os.environ.get(DISABLE, "").split(",") if word.strip()}
    return normal(distribution) != CORE and bool(words & {"*", normal(distribution)})


def distributions() -> list[metadata.Distribution]:
    """Every installed distribution with an ``omni_rl`` entry point, hidden ones included, by name."""
    return _distributions(tuple((path, _changed(path)) for path in sys.path))


def _changed(path: str) -> int:
    """When a folder of ``sys.path`` last gained or lost an entry, and with it perhaps a distribution."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _distributions(searched: tuple[tuple[str, int], ...]) -> list[metadata.Distribution]:
    """Reading the metadata of a full environment takes 0.1 s, and a run asks some ten times."""
    del searched
    entries = metadata.entry_points()
    groups = [group for group in entries.groups if group.startswith("omni_rl.")]
    found = {entry.dist for group in groups for entry in entries.select(group=group) if entry.dist is not None}
    return [each for _, each in sorted({normal(each.name): each for each in found}.items())]


def offers_of(plugin: metadata.Distribution) -> list[Offer]:
    """What one distribution offers, in its own order."""
    name, version = plugin.name, plugin.version
    kinds = {f"omni_rl.{kind}": kind for kind in KINDS}
    found = [
        Offer(kinds[each.group], each.name, each.value, name, version)
        for each in plugin.entry_points
        if each.group in kinds
    ]
    return list(dict.fromkeys(found))


def all_offers(kind: str | None = None) -> list[Offer]:
    """What installed distributions offer, hidden ones included, sorted; see :func:`offers`."""
    assert kind is None or kind in KINDS, kind
    found = [offer for plugin in distributions() for offer in offers_of(plugin) if kind in (None, offer.kind)]
    return sorted(found, key=lambda offer: (offer.kind, offer.key, offer.distribution))


def offers(kind: str | None = None) -> list[Offer]:
    """What installed distributions offer, of one kind or of all, sorted; hidden distributions are left out.

    Reads metadata only. A path that is listed twice in ``sys.path`` counts once.
    """
    return [offer for offer in all_offers(kind) if not is_hidden(offer.distribution)]


def find(kind: str, key: str, distribution: str | None = None) -> Offer:
    """The offer that a run means by ``key``.

    Args:
        kind: a key of ``KINDS``.
        distribution: the one that the configuration chose (``model.plugin`` and its likes).

    Raises:
        PluginError: nobody offers the key, or several do and none was chosen, or the distribution speaks another
            major version of the contract.
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
    """Import what an offer points at.

    Raises:
        PluginError: the import failed, whatever the reason; ``omni-rl plugins --check`` shows the same text.
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
    """Raise PluginError unless a distribution declares the major version of the contract spoken here."""
    majors = contract_of(plugin)
    if str(CONTRACT_MAJOR) in majors:
        return
    what = f"{plugin.name} {plugin.version} "
    if not majors:
        raise PluginError(
            f"{what}does not say which contract it was written for.",
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
    """The error for a run that needs a key which several distributions claim."""
    kind, key = KINDS[claims[0].kind], claims[0].key
    first, last = claims[0].distribution, claims[-1].distribution
    choose = f"Choose one with `{kind.chooser}: {first}`, or hide one with" if kind.chooser else "Hide one with"
    return PluginError(
        f"{kind.word} {key!r} is offered by {' and by '.join(offer.source for offer in claims)}.",
        f"{choose} {DISABLE}={last}",
    )


@cache
def known_plugins() -> dict[str, dict[str, list[str]]]:
    """Which distributions of this project offer what, installed or not: {kind: {key: [distribution]}}."""
    text = resources.files("omni_rl.plugins").joinpath("known_plugins.json").read_text(encoding="utf-8")
    known: dict[str, dict[str, list[str]]] = json.loads(text)
    return known


def _top_module(plugin: metadata.Distribution) -> str:
    targets = [entry.value for entry in plugin.entry_points if entry.group in GROUPS]
    return targets[0].partition(":")[0].partition(".")[0]


def _core_requirement(plugin: metadata.Distribution) -> str:
    """What the plugin itself requires of omni-rl, e.g. ``omni-rl>=2.0``."""
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
    at = place(error)
    lines = [
        f"entry point: [omni_rl.{offer.kind}] {offer.key} = {offer.target}",
        *([f"at: {at}"] if at else []),
        summary(error),
        *advice_on(error, at),
        f"`pip check` names requirements that are missing or too old; then: pip install --upgrade {offer.distribution}",
    ]
    return PluginError(
        f"{offer.source} offers {KINDS[offer.kind].word} {offer.key!r} but is broken.", "\n  ".join(lines)
    )
