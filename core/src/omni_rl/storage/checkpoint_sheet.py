"""``state.json`` of a checkpoint: what it holds, and the sha256 of the checkpoint's files."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_rl.contracts.input_files import read_regular
from omni_rl.errors import CheckpointError
from omni_rl.storage import tensor_files

SCHEMA = 2
"""1: ``tensors`` in ``state.json`` is the entry of the only file."""

REQUIRED = ("iteration", "policy_version", "architecture", "model_fingerprint")
"""Keys that every state has. Further keys: data position, tracker ids, the backend's and the algorithm's own state."""

_KINDS: Mapping[str, tuple[type, ...]] = {
    "iteration": (int,),
    "policy_version": (int,),
    "architecture": (str,),
    "model_fingerprint": (str,),
    "run": (str,),
    "config": (dict,),
    "provenance": (dict,),
    "row": (dict,),
    "metrics_sha256": (str, type(None)),
    "validations": (dict,),
    "backend": (dict,),
    "source": (dict,),
    "trackers": (dict, list),
}
"""The types of the keys of a state."""

_LARGEST = 256 * 1024**2
"""Bytes of ``state.json``."""

NAME = re.compile(r"iteration-(\d+)(\.replaced)?")
"""Names of the folders of checkpoints."""


def sheet(files: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``state.json``: ``state``, and ``files``, the entries of the files of tensors."""
    plain = json.loads(json.dumps(state))  # as it is read back: keys are text, tuples are lists
    return {"schema": SCHEMA, "tensors": dict(files), "state_sha256": _state_sha256(plain), "state": plain}


def verify(path: Path) -> dict[str, Any]:
    """The state of an intact checkpoint; CheckpointError names the file that is not intact."""
    read = _read_sheet(path / "state.json")
    _verify_files(path, read["tensors"])
    state: dict[str, Any] = read["state"]
    _check_state(path, state)
    return state


def _verify_files(path: Path, entries: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        size, expected = file.stat().st_size, entry.get("bytes")
        if size != expected:
            raise CheckpointError(f"{file} has {size} bytes instead of {expected}")
        if tensor_files.sha256(file) != entry.get("sha256"):
            raise CheckpointError(f"{file} is damaged: its sha256 is not the one in state.json")
    other = {file.name for file in path.glob("*.safetensors")} - entries.keys()
    if other:
        file = path / min(other)
        raise CheckpointError(f"{file} is not a file of this checkpoint", f"remove it: rm {shlex.quote(str(file))}")


def _check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Every key has its type, and the iteration is that of the folder's name."""
    file = path / "state.json"
    for key in (*REQUIRED, *_KINDS):
        kinds = _KINDS[key]
        if (key in state and type(state[key]) not in kinds) or (key in REQUIRED and key not in state):
            raise CheckpointError(f"{file} is damaged: {key} is missing or of the wrong type")
    if state["iteration"] < 0 or state["policy_version"] < 0:
        raise CheckpointError(f"{file} is damaged: a count is negative")
    name = NAME.fullmatch(path.name)
    if name and int(name[1]) != state["iteration"]:
        raise CheckpointError(f"{path} has the checkpoint of iteration {state['iteration']}")


def _read_sheet(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise CheckpointError(f"{file} is missing")
    content = read_regular(file, _LARGEST, CheckpointError)
    try:
        sheet: dict[str, Any] = json.loads(content)
        schema = sheet["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: it is not the JSON of a checkpoint") from error
    if schema not in range(1, SCHEMA + 1):
        hint = "resume with the version of omni-rl that wrote it"
        raise CheckpointError(f"{file} has checkpoint schema {schema!r}; this omni-rl reads schema {SCHEMA}", hint)
    if schema == 1:
        sheet["tensors"] = {tensor_files.ALONE: sheet.get("tensors")}
    if not _has_its_form(sheet) or _state_sha256(sheet["state"]) != sheet.get("state_sha256"):
        raise CheckpointError(f"{file} is damaged: its content does not match its own sha256")
    return sheet


def _has_its_form(sheet: Mapping[str, Any]) -> bool:
    files = sheet.get("tensors")
    if not isinstance(sheet.get("state"), dict) or not isinstance(files, dict):
        return False
    return tensor_files.is_whole(files) and all(isinstance(entry, dict) for entry in files.values())


def _state_sha256(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
