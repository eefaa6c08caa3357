"""Atomic, complete checkpoints. After ``kill -9`` at any moment, the newest complete checkpoint can be loaded.

::

    checkpoints/
        latest.json                    {"checkpoint": "iteration-000041"}
        iteration-000041/
            tensors.safetensors        policy/<name>, ema/<name>, old/<name>, optimizer/<name>/exp_avg, ...
            state.json                 everything else, and the sha256 of all files

With weights that are sharded over 4 ranks, each rank writes its parts: ``tensors-00001-of-00004.safetensors`` and so on
(:mod:`omni_rl.storage.tensor_files`). Any number of ranks can load both.

A checkpoint is written in a hidden folder, synced to disk, and renamed: a folder with a checkpoint's name is complete.
While a resumed run writes iteration 41 again, the old checkpoint is ``iteration-000041.replaced``, so that there is a
complete one at any time. Only one run writes. The next :func:`begin` removes what a killed process left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from omni_rl.contracts.input_files import CONFIGURATION, parse_json, read_regular
from omni_rl.contracts.types import Tensors
from omni_rl.errors import CheckpointError
from omni_rl.parallel.group import Ranks
from omni_rl.parallel.whole import own_part
from omni_rl.storage import checkpoint_sheet, tensor_files
from omni_rl.storage.checkpoint_sheet import NAME, REQUIRED, verify
from omni_rl.storage.durable import is_temporary, sync, temporary, write_atomic, writing
from omni_rl.storage.fingerprint import fingerprint as fingerprint
from omni_rl.storage.fingerprint import matches
from omni_rl.storage.run_folder import RunDirectory
from omni_rl.storage.tensor_files import StoredTensors

_LEFT = re.compile(r"\.iteration-\d+(\.replaced)?\.(tmp|deleted)")
"""Names of what a killed process of omni-rl 0.1 left."""


class Draft(NamedTuple):
    """A checkpoint that is being written. All ranks of a run have the same one.

    Attributes:
        final: the folder that it will be.
        folder: the hidden folder that it is written in.
    """

    final: Path
    folder: Path

    def write(self, tensors: Tensors, ranks: Ranks) -> dict[str, Any]:
        """Write what this rank holds; returns the entries of its files, for :meth:`complete`.

        Args:
            tensors: any shapes and dtypes, on any device; tied tensors are stored once per name. Of sharded ones each
                rank writes its parts, of others rank 0 writes all.
            ranks: those that write.

        Raises:
            RunError: it cannot be written (disk full).
        """
        with writing(self.final, sum(own_part(tensor).nbytes for tensor in tensors.values())):
            return tensor_files.write(self.folder, tensors, ranks)

    def complete(self, files: Mapping[str, Any], state: Mapping[str, Any], keep: int) -> Path:
        """Write the state, make this the newest checkpoint, and delete all but the last ``keep``. Only rank 0 does so.

        Args:
            files: the entries of all ranks' files.
            state: JSON data with at least the keys of :data:`REQUIRED`; tuples are read back as lists.
            keep: number of checkpoints to keep, >= 1. This one is never deleted. Checkpoints of later iterations are
                not deleted either: a run that resumed from an earlier checkpoint will replace them.

        Raises:
            RunError: it cannot be written; earlier checkpoints then stay as they were.
        """
        missing = [key for key in REQUIRED if key not in state]
        assert not missing, f"a checkpoint's state needs {missing}"
        assert keep >= 1, "the newest checkpoint is always kept"
        sheet = json.dumps(checkpoint_sheet.sheet(files, state), indent=2) + "\n"
        with writing(self.final, len(sheet)):
            (self.folder / "state.json").write_text(sheet, encoding="utf-8")
            for written in (self.folder / "state.json", self.folder):
                sync(written)
            _publish(self.folder, self.final)
        write_atomic(self.final.parent / "latest.json", json.dumps({"checkpoint": self.final.name}).encode())
        with writing(self.final, 0):
            _prune(self.final.parent, self.final, keep)
        return self.final

    def discard(self) -> None:
        """Delete what was written, after an error."""
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(run: RunDirectory, iteration: int) -> Draft:
    """A new draft of the checkpoint after ``iteration`` completed iterations.

    Raises:
        RunError: its folder cannot be made.
    """
    final = run.checkpoints / f"iteration-{iteration:06d}"
    draft = Draft(final, temporary(final))
    with writing(final, 0):
        run.checkpoints.mkdir(exist_ok=True)
        _sweep(run.checkpoints)
        draft.folder.mkdir()
    return draft


def save(run: RunDirectory, tensors: Tensors, state: Mapping[str, Any], keep: int) -> Path:
    """Write the checkpoint of ``state["iteration"]`` completed iterations from one process.

    Arguments and errors are those of :meth:`Draft.write` and :meth:`Draft.complete`.
    """
    draft = begin(run, state["iteration"])
    try:
        return draft.complete(draft.write(tensors, Ranks(0, 1)), state, keep)
    except BaseException:
        draft.discard()
        raise


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
) -> tuple[StoredTensors, dict[str, Any]]:
    """Tensors and state of the checkpoint folder ``path``, verified against their checksums.

    Raises CheckpointError when it is damaged (names the file and an intact earlier checkpoint), and when it belongs to
    another architecture than ``architecture`` or to another model folder than ``model_fingerprint``.
    """
    state = load_state(path, architecture, model_fingerprint)
    return stored(path), state


def stored(path: Path) -> StoredTensors:
    """The tensors of a checkpoint, which is not verified. Raises CheckpointError when a file cannot be read."""
    try:
        return StoredTensors(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}", _recovery(path)) from error


def load_state(path: Path, architecture: str | None = None, model_fingerprint: str | None = None) -> dict[str, Any]:
    """The state without the tensors; verifies all files, and raises as :func:`load`."""
    try:
        state = verify(path)
    except CheckpointError as error:
        raise CheckpointError(error.what, error.hint or _recovery(path)) from error
    _same("architecture", state["architecture"], architecture, path)
    _same("model_fingerprint", state["model_fingerprint"], model_fingerprint, path)
    return state


def load_group(path: Path, group: str) -> Tensors:
    """One group of tensors, by their names inside the group. Reads only this group and verifies nothing.

    Raises CheckpointError when the checkpoint has no such group.
    """
    tensors = stored(path)
    members = {n.removeprefix(f"{group}/"): tensors[n] for n in tensors if n.startswith(f"{group}/")}
    if not members:
        groups = sorted({name.partition("/")[0] for name in tensors} - {"optimizer"})
        raise CheckpointError(f"{path} has no {group!r} weights", f"it has: {', '.join(groups)}")
    return members


def flatten(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> Tensors:
    """``{"policy": {"w": t}}`` to ``{"policy/w": t}``."""
    return {f"{group}/{name}": tensor for group, members in groups.items() for name, tensor in members.items()}


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
    matches = [(match, entry) for entry in checkpoints.iterdir() if (match := NAME.fullmatch(entry.name))]
    return [entry for _, entry in sorted(matches, key=lambda pair: (int(pair[0][1]), pair[0][2] is None))]


def _iteration(checkpoint: Path) -> int:
    match = NAME.fullmatch(checkpoint.name)
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


def _recovery(path: Path) -> str:
    """The hint for a damaged checkpoint ``path``: how to continue from the newest intact one before it, if any."""
    folder = path.parent
    every = _complete(folder) if NAME.fullmatch(path.name) else []
    for earlier in reversed([other for other in every if other != path and _iteration(other) <= _iteration(path)]):
        try:
            verify(earlier)
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
