"""Saving and restoring a run: its weights, its state, and what its parts keep for themselves."""

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
    """Write a checkpoint of everything needed to go on exactly."""
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
    """Load the directory's newest checkpoint; metrics that were written after it are forgotten.

    Raises:
        CheckpointError: there is none, or it does not fit.
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
    """The newest complete checkpoint; CheckpointError when there is none."""
    path = checkpoint.latest(directory)
    if path is None:
        raise CheckpointError(f"{directory.path} holds no checkpoint", "start again with omni-rl train")
    return path


def _tracker_names(parts: Assembly) -> list[str]:
    """The trackers' names, told apart by number where one is used twice."""
    names = [chosen.key for chosen in parts.resolved.trackers]
    return [f"{name}-{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _restore_trackers(trackers: Sequence[Tracker], names: Sequence[str], kept: Any) -> None:
    """By name: trackers may have been added, removed or put into another order. Contract 1 kept a list."""
    by_name = kept if isinstance(kept, dict) else dict(zip(names, kept, strict=False))
    for name, tracker in zip(names, trackers, strict=True):
        tracker.restore(by_name.get(name, {}))
