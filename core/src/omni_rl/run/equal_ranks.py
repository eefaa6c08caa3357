"""Several ranks must hold the same run: configuration, plugins, data, files and weights of the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from omni_rl.config.resolve import Resolved
from omni_rl.contracts.verdicts import Row
from omni_rl.errors import ConfigError
from omni_rl.parallel.exchange import gathered
from omni_rl.parallel.group import local_rank, world_size
from omni_rl.run.assembly import Assembly
from omni_rl.run.continuing import leaves
from omni_rl.run.spec import spec_of
from omni_rl.storage import checkpoint

OWN = ("launcher.node",)
"""Keys of the configuration that differ from machine to machine."""


def refuse_other_run(resolved: Resolved) -> None:
    """Refuse ranks whose commands, files or installed plugins differ, before they do anything together.

    Raises:
        ConfigError: names the first rank that differs from rank 0, and the keys.
    """
    if world_size() == 1:
        return
    told = gathered(dict(_facts(resolved)))
    for number, facts in enumerate(told):
        differing = [key for key in (told[0] | facts) if told[0].get(key) != facts.get(key)]
        if differing:
            what = f"rank {number} has another {', '.join(differing[:4])} than rank 0"
            raise ConfigError(what, "start the same command, with the same files and versions, on every machine")


def equality_row(parts: Assembly) -> Row:
    """The gate's row about what all ranks hold."""
    told = gathered(_held(parts))
    ranks = f"{len(told)} ranks"
    for number, held in enumerate(told):
        differing = [key for key, value in held.items() if None not in (value, told[0][key]) and value != told[0][key]]
        if differing:
            return Row("ranks", "fail", f"rank {number} of {ranks} has other {' and '.join(differing)} than rank 0")
    return Row("ranks", "ok", f"{ranks} hold the same configuration, plugins, data, model files and weights")


def _facts(resolved: Resolved) -> Iterator[tuple[str, Any]]:
    """What a run consists of, by the words that name it in an error."""
    spec = json.loads(spec_of(resolved).to_json())
    for part in spec.pop("parts"):
        yield f"{part['kind']} {part['key']}", part
    for file in spec.pop("files"):
        yield f"file {Path(file['path']).name}", file["sha256"]
    yield from ((key, value) for key, value in leaves(spec.pop("config"), "") if key not in OWN)
    yield from spec.items()


def _held(parts: Assembly) -> dict[str, str | None]:
    """Hashes of what this rank holds. Model files are read by one rank of each machine, and their hash is cached."""
    rows = [repr(row) for row in (*parts.prompts.rows, *parts.validation_rows)]
    files = checkpoint.fingerprint(parts.resolved.model_path) if local_rank() == 0 else None
    return {"data": _hash(rows), "model files": files, "weights": None if parts.model.sharded else _weights(parts)}


def _weights(parts: Assembly) -> str:
    """A checksum of every tensor of the model in memory: the sum of its bits, read as integers."""
    named = ((f"{c}.{n}", t) for c, m in parts.model.modules.items() for n, t in m.state_dict().items())
    return _hash([f"{name} {int(_as_integers(tensor).sum(dtype=torch.int64))}" for name, tensor in named])


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8 if tensor.element_size() % 2 else torch.int16)


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
