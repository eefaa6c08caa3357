"""Save and restore a run: weights, progress, and the state of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni_rl.contracts.events import State
from omni_rl.contracts.interfaces import Tracker
from omni_rl.errors import CheckpointError
from omni_rl.run.assembly import Assembly
from omni_rl.run.weight_sync import give_weights, in_place
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory


def save(parts: Assembly, directory: RunDirectory, state: State) -> Path:
    """Write a checkpoint with everything that an exact resume needs; returns its folder."""
    tensors, backend = parts.backend.state()
    kept = {
        "iteration": state.iteration,
        "policy_version": state.policy_version,
        "architecture": parts.model.architecture,
        "model_fingerprint": parts.fingerprint,
        "backend": backend,
        "source": parts.source.state(),
        "trackers": dict(zip(_tracker_names(parts), (t.state() for t in parts.trackers), strict=True)),
    }
    return checkpoint.save(directory, tensors, kept, keep=parts.config.train.keep_checkpoints)


def restore(parts: Assembly, directory: RunDirectory) -> State:
    """Load the newest checkpoint of the directory; metrics of later iterations are deleted.

    Raises:
        CheckpointError: there is no checkpoint, or it does not fit the run.
    """
    path = newest(directory)
    tensors, kept = checkpoint.load(path, parts.model.architecture, parts.fingerprint)
    parts.backend.load_state(tensors, kept["backend"])
    parts.source.load_state(kept.get("source", {}))
    _restore_trackers(parts.trackers, _tracker_names(parts), kept["trackers"])
    state = State(kept["iteration"], kept["policy_version"])
    directory.truncate_metrics(state.iteration)
    with in_place(parts.backend, parts.traits.samples_with):
        give_weights(parts.backend, parts.engine, state.policy_version, parts.traits.samples_with)
    return state


def newest(directory: RunDirectory) -> Path:
    """The folder of the newest complete checkpoint; CheckpointError if there is none."""
    path = checkpoint.latest(directory)
    if path is None:
        raise CheckpointError(f"{directory.path} has no checkpoint", "start again with omni-rl train")
    return path


def _tracker_names(parts: Assembly) -> list[str]:
    """The trackers' names; a name that is used again gets a number."""
    names = [chosen.key for chosen in parts.resolved.trackers]
    return [f"{name}-{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _restore_trackers(trackers: Sequence[Tracker], names: Sequence[str], kept: Any) -> None:
    """Restore by name, because trackers may be added, removed or reordered. With contract 1, ``kept`` was a list."""
    by_name = kept if isinstance(kept, dict) else dict(zip(names, kept, strict=False))
    for name, tracker in zip(names, trackers, strict=True):
        tracker.restore(by_name.get(name, {}))
