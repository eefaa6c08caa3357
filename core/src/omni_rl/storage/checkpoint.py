"""Atomic, complete checkpoints. After ``kill -9`` at any moment, the newest complete checkpoint can be loaded.

::

    checkpoints/
        latest.json                    {"checkpoint": "iteration-000041"}
        iteration-000041/
            tensors.safetensors        policy/<name>, ema/<name>, old/<name>, optimizer/<name>/exp_avg, ...
            state.json                 everything else, and the sha256 of both

A checkpoint is written in a hidden folder, synced to disk, and renamed: a folder with a checkpoint's name is complete.
While a resumed run writes iteration 41 again, the old checkpoint is ``iteration-000041.replaced``, so that there is a
complete one at any time. Only one process writes. The next :func:`save` removes what a killed process left.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from omni_rl.contracts.input_files import CONFIGURATION, parse_json, read_regular
from omni_rl.contracts.types import Tensors
from omni_rl.errors import CheckpointError
from omni_rl.storage.durable import is_temporary, sync, temporary, write_atomic, writing
from omni_rl.storage.fingerprint import fingerprint as fingerprint
from omni_rl.storage.fingerprint import matches
from omni_rl.storage.run_folder import RunDirectory

SCHEMA = 1
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

_LARGEST_STATE = 256 * 1024**2
"""Bytes of ``state.json``."""

_NAME = re.compile(r"iteration-(\d+)(\.replaced)?")
_LEFT = re.compile(r"\.iteration-\d+(\.replaced)?\.(tmp|deleted)")
"""Names of what a killed process of omni-rl 0.1 left."""


def save(run: RunDirectory, tensors: Tensors, state: Mapping[str, Any], keep: int) -> Path:
    """Write the checkpoint of ``state["iteration"]`` completed iterations, and delete all but the last ``keep``.

    Args:
        tensors: any shapes and dtypes, on any device; tied tensors are stored once per name.
        state: JSON data with at least the keys of :data:`REQUIRED`; tuples are read back as lists.
        keep: number of checkpoints to keep, >= 1. The new checkpoint is never deleted. Checkpoints of later iterations
            are not deleted either: a run that resumed from an earlier checkpoint will replace them.

    Raises RunError when it cannot be written (disk full); earlier checkpoints then stay as they were.
    """
    missing = [key for key in REQUIRED if key not in state]
    assert not missing, f"a checkpoint's state needs {missing}"
    assert keep >= 1, "the newest checkpoint is always kept"
    final = run.checkpoints / f"iteration-{state['iteration']:06d}"
    stored = _storable(tensors)
    with writing(final, sum(tensor.nbytes for tensor in stored.values())):
        run.checkpoints.mkdir(exist_ok=True)
        _sweep(run.checkpoints)
        _write(temporary(final), final, stored, state)
    write_atomic(run.checkpoints / "latest.json", json.dumps({"checkpoint": final.name}).encode())
    with writing(final, 0):
        _prune(run.checkpoints, final, keep)
    return final


def latest(run: RunDirectory) -> Path | None:
    """The checkpoint that ``latest.json`` names, or else the newest complete one, or else None.

    They differ if a process was killed after renaming a checkpoint and before writing ``latest.json``, and if
    ``latest.json`` or its checkpoint is damaged or missing.
    """
    complete = _complete(run.checkpoints)
    named = [folder for folder in complete if folder.name == _named(run.checkpoints / "latest.json")]
    return next(reversed(named or complete), None)


def load(
    path: Path, architecture: str | None = None, model_fingerprint: str | None = None
) -> tuple[Tensors, dict[str, Any]]:
    """Tensors (on the CPU) and state of the checkpoint folder ``path``, verified against their checksums.

    Raises CheckpointError when it is damaged (names the file and an intact earlier checkpoint), and when it belongs to
    another architecture than ``architecture`` or to another model folder than ``model_fingerprint``.
    """
    state = load_state(path, architecture, model_fingerprint)
    file = path / "tensors.safetensors"
    try:
        return load_file(file), state
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {error}", _recovery(path)) from error


def load_state(path: Path, architecture: str | None = None, model_fingerprint: str | None = None) -> dict[str, Any]:
    """The state without the tensors; verifies both files, and raises as :func:`load`."""
    try:
        state = _verify(path)
    except CheckpointError as error:
        raise CheckpointError(error.what, error.hint or _recovery(path)) from error
    _same("architecture", state["architecture"], architecture, path)
    _same("model_fingerprint", state["model_fingerprint"], model_fingerprint, path)
    return state


def load_group(path: Path, group: str) -> Tensors:
    """One group of tensors, by their names inside the group. Reads only this group and verifies nothing.

    Raises CheckpointError when the checkpoint has no such group.
    """
    with safe_open(path / "tensors.safetensors", framework="pt") as file:
        names = list(file.keys())
        members = {n.removeprefix(f"{group}/"): file.get_tensor(n) for n in names if n.startswith(f"{group}/")}
    if not members:
        groups = sorted({name.partition("/")[0] for name in names} - {"optimizer"})
        raise CheckpointError(f"{path} has no {group!r} weights", f"it has: {', '.join(groups)}")
    return members


def flatten(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> Tensors:
    """``{"policy": {"w": t}}`` to ``{"policy/w": t}``."""
    return {f"{group}/{name}": tensor for group, members in groups.items() for name, tensor in members.items()}


def _storable(tensors: Tensors) -> Tensors:
    """Copies on the CPU, contiguous and without shared memory, as safetensors requires."""
    stored: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().to("cpu").contiguous()
        memory = here.untyped_storage().data_ptr()
        stored[name] = here.clone() if memory in seen else here
        seen.add(memory)
    return stored


def _write(temporary: Path, final: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Write both files to the new folder ``temporary``, sync and rename it; on failure, delete it."""
    try:
        temporary.mkdir()
        file, sheet_file = temporary / "tensors.safetensors", temporary / "state.json"
        save_file(tensors, file, metadata={"format": "pt"})
        sheet_file.write_text(json.dumps(_sheet(file, state), indent=2) + "\n", encoding="utf-8")
        for written in (file, sheet_file, temporary):
            sync(written)
        _publish(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sheet(tensors_file: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(state))  # as it is read back: keys are text, tuples are lists
    tensors = {"bytes": tensors_file.stat().st_size, "sha256": _sha256(tensors_file)}
    return {"schema": SCHEMA, "tensors": tensors, "state_sha256": _state_sha256(plain), "state": plain}


def _publish(temporary: Path, final: Path) -> None:
    """Rename a written folder to its final name. An older checkpoint with that name is first renamed, not deleted."""
    if final.exists():
        os.replace(final, final.with_name(f"{final.name}.replaced"))
    os.replace(temporary, final)
    sync(final.parent)


def _named(pointer: Path) -> str | None:
    """The folder name in ``latest.json``; None when the file is absent or damaged, for the folders are the truth."""
    try:
        name = parse_json(read_regular(pointer, CONFIGURATION).decode())["checkpoint"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(name)


def _complete(checkpoints: Path) -> list[Path]:
    """All complete checkpoints, oldest first; a replaced one comes before its replacement."""
    if not checkpoints.is_dir():
        return []
    matches = [(match, entry) for entry in checkpoints.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return [entry for _, entry in sorted(matches, key=lambda pair: (int(pair[0][1]), pair[0][2] is None))]


def _iteration(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def _prune(checkpoints: Path, newest: Path, keep: int) -> None:
    earlier = [folder for folder in _complete(checkpoints) if _iteration(folder) < _iteration(newest)]
    replaced = newest.with_name(f"{newest.name}.replaced")
    for folder in [*earlier[: len(earlier) - (keep - 1)], *([replaced] if replaced.exists() else [])]:
        _delete(folder)


def _delete(folder: Path) -> None:
    """Rename to a hidden name, then delete, because a half-deleted folder must not look complete.

    A later :func:`_sweep` removes files that cannot be deleted now.
    """
    hidden = temporary(folder)
    os.replace(folder, hidden)
    _remove(hidden)


def _remove(folder: Path) -> None:
    """Remove a folder or a file; of a link, only the link."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(checkpoints: Path) -> None:
    """Remove the half-written, half-deleted and replaced folders and files of a killed process."""
    for folder in checkpoints.glob(".*"):
        if is_temporary(folder) or _LEFT.fullmatch(folder.name):
            _remove(folder)
    for folder in checkpoints.glob("iteration-*.replaced"):
        if folder.with_suffix("").exists():
            _delete(folder)


def _verify(path: Path) -> dict[str, Any]:
    """The state of an intact checkpoint; CheckpointError names the file that is not intact."""
    file, sheet = path / "tensors.safetensors", _read_sheet(path / "state.json")
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    size, expected = file.stat().st_size, sheet["tensors"].get("bytes")
    if size != expected:
        raise CheckpointError(f"{file} has {size} bytes instead of {expected}")
    if _sha256(file) != sheet["tensors"].get("sha256"):
        raise CheckpointError(f"{file} is damaged: its sha256 is not the one in state.json")
    state: dict[str, Any] = sheet["state"]
    _check_state(path, state)
    return state


def _check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Every key has its type, and the iteration is that of the folder's name."""
    file = path / "state.json"
    for key in (*REQUIRED, *_KINDS):
        kinds = _KINDS[key]
        if (key in state and type(state[key]) not in kinds) or (key in REQUIRED and key not in state):
            raise CheckpointError(f"{file} is damaged: {key} is missing or of the wrong type")
    if state["iteration"] < 0 or state["policy_version"] < 0:
        raise CheckpointError(f"{file} is damaged: a count is negative")
    name = _NAME.fullmatch(path.name)
    if name and int(name[1]) != state["iteration"]:
        raise CheckpointError(f"{path} has the checkpoint of iteration {state['iteration']}")


def _read_sheet(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise CheckpointError(f"{file} is missing")
    content = read_regular(file, _LARGEST_STATE, CheckpointError)
    try:
        sheet: dict[str, Any] = json.loads(content)
        schema = sheet["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: it is not the JSON of a checkpoint") from error
    if schema != SCHEMA:
        hint = "resume with the version of omni-rl that wrote it"
        raise CheckpointError(f"{file} has checkpoint schema {schema!r}; this omni-rl reads schema {SCHEMA}", hint)
    plain = isinstance(sheet.get("state"), dict) and isinstance(sheet.get("tensors"), dict)
    if not plain or _state_sha256(sheet["state"]) != sheet.get("state_sha256"):
        raise CheckpointError(f"{file} is damaged: its content does not match its own sha256")
    return sheet


def _recovery(path: Path) -> str:
    """The hint for a damaged checkpoint ``path``: how to continue from the newest intact one before it, if any."""
    folder = path.parent
    every = _complete(folder) if _NAME.fullmatch(path.name) else []
    for earlier in reversed([other for other in every if other != path and _iteration(other) <= _iteration(path)]):
        try:
            _verify(earlier)
        except CheckpointError:
            continue
        return f"{earlier.name} is intact; to continue from it: rm -r {path} && omni-rl resume {folder.parent}"
    again = f"rm -r {path} && omni-rl resume {folder.parent}"
    return f"there is no intact earlier checkpoint in {folder}; to start this run again from its beginning: {again}"


def _same(what: str, stored: str, expected: str | None, path: Path) -> None:
    if expected not in (None, stored):
        raise of_another_model(path, what.replace("_", " "), stored, str(expected))


def same_model(path: Path, state: Mapping[str, Any], model_folder: Path, now: str | None = None) -> None:
    """Raise CheckpointError unless the checkpoint ``path`` belongs to the files of ``model_folder``.

    ``now``: their :func:`fingerprint`, if it is known already.
    """
    if not matches(model_folder, state["model_fingerprint"], now):
        raise of_another_model(path, "fingerprint", state["model_fingerprint"], now or fingerprint(model_folder))


def of_another_model(path: Path, what: str, stored: str, expected: str) -> CheckpointError:
    """The error for a checkpoint whose model is not the run's."""
    return CheckpointError(
        f"{path} belongs to another model: its {what} is {stored}, this run's is {expected}",
        "set model.path to the model folder of the original run, with its files as they were",
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _state_sha256(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
