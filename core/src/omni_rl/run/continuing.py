"""Find the point from which a run continues, and check that it is a point of this run.

A checkpoint says which run wrote it, with which configuration, data and rewards. Differences that change the meaning of
the stored weights are refused; all others are shown, and the gate checks the run again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rl.config.resolve import Resolved, resolve
from omni_rl.errors import CheckpointError
from omni_rl.reporting import provenance
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory, metrics_hash

_WITHOUT_EFFECT = (
    *("config.validation", "config.tracker", "config.gate", "config.launcher", "provenance.data.validation"),
    *("config.train.iterations", "config.train.checkpoint_every", "config.train.keep_checkpoints"),
)
"""Differences that change neither samples nor updates; a key includes the keys below it and those that begin so."""

_SHOWN = 20  # differences


@dataclass(frozen=True)
class Point:
    """From where a run continues.

    Attributes:
        path: the checkpoint; None: the run's beginning.
        kept: what the checkpoint says; empty at the beginning.
        run: the id of the run.
    """

    path: Path | None
    kept: Mapping[str, Any]
    run: str

    @property
    def iteration(self) -> int:
        """The number of complete iterations."""
        return int(self.kept.get("iteration", 0))

    @property
    def row(self) -> dict[str, float]:
        """The metrics of the last of them; empty if the checkpoint does not have them."""
        return dict(self.kept.get("row") or {})


def new_id() -> str:
    """The id of a new run."""
    return secrets.token_hex(8)


def find(directory: RunDirectory) -> Point:
    """The newest checkpoint of a run, or its beginning if it has none.

    Raises:
        CheckpointError: the checkpoint is damaged, was written by another run, or the metrics are not those of the run.
    """
    path, own = checkpoint.latest(directory), _own_id(directory)
    if path is None:
        return Point(None, {}, own or new_id())
    kept = checkpoint.load_state(path)
    stored = kept.get("run")
    if None not in (stored, own) and stored != own:
        raise CheckpointError(
            f"{path} was written by another run ({stored}, not {own})",
            f"take it out of the folder; {directory.path} continues from the checkpoint before it, or from its start",
        )
    point = Point(path, kept, stored or own or new_id())
    rows = directory.contiguous_metrics(point.iteration, point.row or None)
    if kept.get("metrics_sha256") not in (None, metrics_hash(rows)):
        raise CheckpointError(
            f"{directory.metrics_file} does not have the figures that this run wrote up to iteration {point.iteration}",
            "restore metrics.jsonl as this run wrote it; without it, train again with another --run-dir",
        )
    return point


def _own_id(directory: RunDirectory) -> str | None:
    """The id in ``provenance.json``; None if there is none."""
    known = _known_origin(directory).get("run")
    return known if isinstance(known, str) else None


def _known_origin(directory: RunDirectory) -> dict[str, Any]:
    try:
        data = json.loads((directory.path / provenance.FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def differences(point: Point, directory: RunDirectory, resolved: Resolved, now: Mapping[str, Any]) -> dict[str, str]:
    """What differs between the run as it continues and the checkpoint: key -> sentence.

    Args:
        point: the checkpoint; at the beginning of a run nothing is compared.
        directory, resolved: the run.
        now: its provenance; only the kinds of information that both have are compared.

    Raises:
        CheckpointError: a difference changes the meaning of the stored weights.
    """
    if point.path is None:
        return {}
    old = point.kept.get("config") or resolve(directory.config_file).config.model_dump(mode="json")
    new = resolved.config.model_dump(mode="json")
    _refuse_other_meaning(point.path, old, new)
    then = point.kept.get("provenance") or _known_origin(directory)
    kinds = ("data", "media", "rewards", "plugins", "device", "versions")
    before = {"config": old, "provenance": {kind: then[kind] for kind in kinds if kind in then and kind in now}}
    after = {"config": new, "provenance": {kind: now[kind] for kind in kinds if kind in then and kind in now}}
    one, other = dict(_leaves(before, "")), dict(_leaves(after, ""))
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    return {key: f"{_words(key)}: {_short(one.get(key))} -> {_short(other.get(key))}" for key in keys}


def change_training(changed: Mapping[str, str]) -> bool:
    """Whether differences change samples or updates."""
    return any(not key.startswith(_WITHOUT_EFFECT) for key in changed)


def shown(changed: Mapping[str, str]) -> str:
    """The differences for the user, on one screen."""
    lines = [*changed.values()]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join(["different from the checkpoint:", *lines[:_SHOWN], *more])


def _refuse_other_meaning(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = _meaning(old), _meaning(new)
    for key in dict.fromkeys([*before, *after]):
        then, now = before.get(key), after.get(key)
        if then != now:
            raise CheckpointError(
                f"{key} is {_short(now)}, but the weights in {path} were trained with {_short(then)}",
                f"with another value the stored weights mean another model: set {key} back, or start a new run",
            )


def _meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that give the stored weights their meaning."""
    lora, average = config["model"].get("lora"), config["train"].get("ema")
    if lora is None:
        adapters: dict[str, Any] = {"model.lora": None}
    else:
        targets = lora["targets"]
        named = {**lora, "targets": targets if isinstance(targets, str) else sorted(targets)}
        adapters = {"model.lora": "LoRA", **{f"model.lora.{name}": value for name, value in named.items()}}
    return {**adapters, "train.ema": None if average is None else "an average"}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _leaves(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{key}.{number}")
    else:
        yield key, value


def _words(key: str) -> str:
    where, _, rest = key.partition(".")
    return rest if where == "config" else f"{rest.replace('.', ' ')}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
