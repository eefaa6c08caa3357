"""The list of ``omni-rl plugins``: every distribution that offers a plugin, and with ``--check`` whether it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from omni_rl.errors import PluginError, did_you_mean
from omni_rl.plugins.discovery import (
    DISABLE,
    GROUPS,
    Offer,
    check_contract,
    claimed_twice,
    contract_of,
    distributions,
    is_hidden,
    offers_of,
)
from omni_rl.plugins.own_time import run_limited

Status = Literal["installed", "hidden", "refused", "works", "broken", "too slow"]

Claims = defaultdict[tuple[str, str], list[Offer]]

_COLOURS: dict[Status, str] = {"works": "green", "refused": "red", "broken": "red", "too slow": "red", "hidden": "dim"}


@dataclass(frozen=True)
class ListedPlugin:
    """One distribution.

    Attributes:
        contract: the major versions of the contract that it declares, separated by commas.
        offers: ``<kind>:<key>`` of each offer.
        status: ``installed`` until it is checked.
        text: the error or note that a run which needs the plugin would show; empty when there is none.
        path: the file of its first module, or the folder of its metadata.
    """

    distribution: str
    version: str
    contract: str
    offers: tuple[str, ...]
    status: Status
    text: str
    path: str


def rows() -> list[ListedPlugin]:
    """Every distribution that has an ``omni_rl`` entry point, sorted by name; reads metadata only."""
    plugins = distributions()
    claims = _claims(plugin for plugin in plugins if not is_hidden(plugin.name))
    return [_row(plugin, claims) for plugin in plugins]


def check(listed: Sequence[ListedPlugin], seconds: float = 20.0, jobs: int = 2) -> list[ListedPlugin]:
    """Import each distribution of status ``installed`` in its own process, and return the rows with the result.

    Args:
        seconds: limit of the own time of one distribution: computing and waiting, not waiting for a busy CPU.
        jobs: number of processes that run at the same time.
    """
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(lambda row: _checked(row, seconds) if row.status == "installed" else row, listed))


def table(listed: Sequence[ListedPlugin]) -> Table:
    """The rows as a table for a terminal; print :func:`texts` below it."""
    shown = Table(box=None, pad_edge=False)
    for title in ("distribution", "version", "contract", "status", "offers", "path"):
        shown.add_column(title, overflow="fold")  # users copy names, so a name is never cut
    for row in listed:
        status = Text(row.status, style=_COLOURS.get(row.status, ""))
        shown.add_row(row.distribution, row.version, row.contract, status, Text("\n".join(row.offers)), Text(row.path))
    return shown


def texts(listed: Sequence[ListedPlugin]) -> list[str]:
    """The errors and notes of all rows, without repetitions."""
    return list(dict.fromkeys(row.text for row in listed if row.text))


def to_json(listed: Sequence[ListedPlugin]) -> str:
    """The rows as a JSON list of objects."""
    return json.dumps([asdict(row) for row in listed], indent=2)


def _row(plugin: metadata.Distribution, claims: Claims) -> ListedPlugin:
    name, offered, refusal = plugin.name, offers_of(plugin), _refusal(plugin)
    hidden = is_hidden(name)
    return ListedPlugin(
        distribution=name,
        version=plugin.version,
        contract=", ".join(contract_of(plugin)),
        offers=tuple(f"{offer.kind}:{offer.key}" for offer in offered),
        status="hidden" if hidden else "refused" if refusal else "installed",
        text=f"{name} is hidden by {DISABLE}={os.environ[DISABLE]}" if hidden else refusal or _shared(offered, claims),
        path=_path(plugin, offered),
    )


def _claims(plugins: Iterable[metadata.Distribution]) -> Claims:
    claims: Claims = defaultdict(list)
    for plugin in plugins:
        for offer in offers_of(plugin):
            claims[offer.kind, offer.key].append(offer)
    return claims


def _shared(offered: Sequence[Offer], claims: Claims) -> str:
    """The errors that a run shows if it needs a key which several distributions offer."""
    clashes = [claims[offer.kind, offer.key] for offer in offered if len(claims[offer.kind, offer.key]) > 1]
    return "\n".join(str(claimed_twice(clash)) for clash in clashes)


def _refusal(plugin: metadata.Distribution) -> str | None:
    """The error in a distribution's metadata; None when there is none."""
    for group in sorted({entry.group for entry in plugin.entry_points} - set(GROUPS)):
        if group.startswith("omni_rl."):
            return (
                f"{plugin.name} {plugin.version} has entry points in an unknown group, {group!r}."
                f"{did_you_mean(group, GROUPS)}\n  Groups: {', '.join(GROUPS)}"
            )
    try:
        check_contract(plugin)
    except PluginError as error:
        return str(error)
    return None


def _path(plugin: metadata.Distribution, offered: Sequence[Offer]) -> str:
    for offer in offered:
        spec = util.find_spec(offer.target.partition(":")[0].partition(".")[0])  # a top-level module: imports nothing
        if spec is not None and spec.origin is not None:
            return spec.origin
    return str(plugin.locate_file(""))


def _checked(row: ListedPlugin, seconds: float) -> ListedPlugin:
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [sys.executable, "-P", "-m", "omni_rl.plugins.probe", row.distribution, str(result)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with log.open("wb") as stream:
            files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream}
            code = run_limited(command, seconds, env=environment, **files)
        if code is None:
            return replace(row, status="too slow", text=_too_slow(row, seconds))
        problems = json.loads(result.read_text(encoding="utf-8")) if result.exists() else [_crashed(row, code, log)]
    text = "\n".join(filter(None, [row.text, *problems]))
    return replace(row, status="broken" if problems else "works", text=text)


def _too_slow(row: ListedPlugin, seconds: float) -> str:
    return (
        f"{row.distribution} {row.version} was not imported within {seconds:g} s of its own time.\n"
        "  Slow work should not run at module level; to wait longer: omni-rl plugins --check --seconds 300"
    )


def _crashed(row: ListedPlugin, code: int, log: Path) -> str:
    last = "\n  ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    return (
        f"{row.distribution} {row.version} ends the Python process when it is imported (exit status {code}).\n  {last}"
    )
