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
from omni_rl.contracts.input_files import PROMPTS, parse_json, read_regular
from omni_rl.errors import CheckpointError
from omni_rl.reporting import artifacts, provenance
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory, is_row, metrics_hash, row_hashes

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
    _check_kept(path, kept)
    point = Point(path, kept, stored or own or new_id())
    rows = directory.contiguous_metrics(point.iteration, point.row or None)
    last = rows[-1] if rows else {}
    same = all(json.dumps(last.get(name)) == json.dumps(value) for name, value in point.row.items())
    if not same or kept.get("metrics_sha256") not in (None, metrics_hash(rows)):
        raise CheckpointError(
            f"{directory.metrics_file} does not have the figures that this run wrote up to iteration {point.iteration}",
            "restore metrics.jsonl as this run wrote it; without it, train again with another --run-dir",
        )
    _check_validations(directory, point)
    return point


def _check_kept(path: Path, kept: Mapping[str, Any]) -> None:
    """A state of another form, such as an edited one, is refused before anything is read from it."""
    row, config = kept.get("row") or {}, kept.get("config") or {"model": {}, "train": {}}
    sections = all(isinstance(config.get(name), Mapping) for name in ("model", "train"))
    same = is_row(row) and all(row.get(name, kept[name]) == kept[name] for name in ("iteration", "policy_version"))
    if not sections or (row and not same):
        raise CheckpointError(f"{path / 'state.json'} is damaged: its configuration or its metrics have another form")


def _check_validations(directory: RunDirectory, point: Point) -> None:
    """An earlier validation that the run wrote may be missing, but not have other figures or be there twice; that of
    the checkpoint's own iteration may have other figures, because it is made again.

    Raises:
        CheckpointError: it has other figures.
    """
    rows = artifacts.validations(directory)
    now, then = row_hashes(rows), point.kept.get("validations") or {}
    other = [name for name, known in then.items() if now.get(name, known) != known and name != str(point.iteration)]
    if other or [row["iteration"] for row in rows] != sorted({row["iteration"] for row in rows}):
        wrong = f"other figures of iteration {other[0]} than this run wrote" if other else "double or exchanged rows"
        hint = "restore it as this run wrote it, or delete these lines; the report then lacks those validations"
        raise CheckpointError(f"{directory.path / 'validation.jsonl'} has {wrong}", hint)


def _own_id(directory: RunDirectory) -> str | None:
    """The id in ``provenance.json``; None if there is none."""
    known = _known_origin(directory).get("run")
    return known if isinstance(known, str) else None


def _known_origin(directory: RunDirectory) -> dict[str, Any]:
    try:
        data = parse_json(read_regular(directory.path / provenance.FILE, PROMPTS).decode())
    except ValueError:
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
    one, other = dict(leaves(before, "")), dict(leaves(after, ""))
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    return _missing_validations(point, directory) | {
        key: f"{_words(key)}: {_short(one.get(key))} -> {_short(other.get(key))}" for key in keys
    }


def last_validation_differs(point: Point, directory: RunDirectory) -> bool:
    """Whether the validation of the checkpoint's iteration has other figures than when the checkpoint was written."""
    own = str(point.iteration)
    known = (point.kept.get("validations") or {}).get(own)
    return known is not None and row_hashes(artifacts.validations(directory)).get(own, known) != known


def _missing_validations(point: Point, directory: RunDirectory) -> dict[str, str]:
    now, own = row_hashes(artifacts.validations(directory)), str(point.iteration)
    missing = [name for name in point.kept.get("validations") or {} if name not in now and name != own]
    told = {}
    if missing:
        told["lost"] = f"the validations of iterations {', '.join(missing)} are missing in it and in the report"
    if last_validation_differs(point, directory):
        told["other"] = f"iteration {own} has other figures, and is validated again"
    return {f"config.validation {key}": _clipped(f"validation.jsonl: {text}") for key, text in told.items()}


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


def leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The values of nested sections by their dotted keys, which begin with ``key``."""
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from leaves(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, each in enumerate(value):
            yield from leaves(each, f"{key}.{number}")
    else:
        yield key, value


def _words(key: str) -> str:
    where, _, rest = key.partition(".")
    return rest if where == "config" else f"{rest.replace('.', ' ')}"


def _short(value: Any) -> str:
    return _clipped(json.dumps(value), 80)


def _clipped(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
