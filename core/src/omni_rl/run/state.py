"""Save and restore a run: weights, progress, and the state of its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni_rl.contracts.events import State
from omni_rl.contracts.interfaces import Tracker
from omni_rl.contracts.types import Tensors
from omni_rl.errors import CheckpointError, RunError, UserError
from omni_rl.parallel.exchange import gathered
from omni_rl.parallel.group import everyone, rank
from omni_rl.plugins.blame import describe_error
from omni_rl.reporting import artifacts
from omni_rl.run.assembly import Assembly
from omni_rl.run.together import on_rank_0, together
from omni_rl.run.weight_sync import give_weights, in_place
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory, metrics_hash, row_hashes


@dataclass
class Origin:
    """What a checkpoint says of the run that wrote it, so that it is never continued as another run.

    Attributes:
        run: the run's id.
        provenance: versions, and hashes of data, rewards and local plugins, as they are now.
        row: the metrics of the last complete iteration; empty before the first.
    """

    run: str
    provenance: Mapping[str, Any]
    row: Mapping[str, float] = field(default_factory=dict)


def save(
    parts: Assembly, directory: RunDirectory, state: State, origin: Origin, note: Callable[[str], None] = print
) -> Path:
    """Write a checkpoint with everything that an exact resume needs; returns its folder. ``note`` shows a sentence."""
    tensors, backend = parts.backend.state()
    kept = {
        "iteration": state.iteration,
        "policy_version": state.policy_version,
        "architecture": parts.model.architecture,
        "model_fingerprint": parts.fingerprint,
        "run": origin.run,
        "config": parts.config.model_dump(mode="json"),
        "provenance": origin.provenance,
        "row": dict(origin.row),
        "metrics_sha256": _metrics_sha256(directory, state, origin),
        "validations": _validations(directory, state),
        "backend": backend,
        "source": parts.source.state(),
        "trackers": _tracker_states(parts, note),
    }
    return _write(directory, tensors, kept, parts.config.train.keep_checkpoints)


def _write(directory: RunDirectory, tensors: Tensors, kept: Mapping[str, Any], keep: int) -> Path:
    """Each rank writes what it holds; then rank 0 makes it the newest checkpoint."""
    begun = on_rank_0(lambda: list(map(str, checkpoint.begin(directory, kept["iteration"]))))
    draft = checkpoint.Draft(*map(Path, begun))
    try:
        entries = gathered(together(lambda: draft.write(tensors, everyone())))
        files = {name: entry for each in entries for name, entry in each.items()}
        return Path(on_rank_0(lambda: str(draft.complete(files, kept, keep))))
    except BaseException:
        if rank() == 0:
            draft.discard()
        raise


def restore(parts: Assembly, path: Path) -> State:
    """Load a checkpoint into the parts of a run.

    Raises:
        CheckpointError: it is damaged, or does not fit the run.
    """
    kept = on_rank_0(lambda: checkpoint.load_state(path, parts.model.architecture))
    checkpoint.same_model(path, kept, parts.resolved.model_path, parts.fingerprint)
    with _restoring(path, "training backend"):
        parts.backend.load_state(checkpoint.stored(path), kept["backend"])
    with _restoring(path, "source of samples"):
        parts.source.load_state(kept.get("source", {}))
    with _restoring(path, "trackers"):
        _restore_trackers(parts.trackers, _tracker_names(parts), kept["trackers"])
    state = State(kept["iteration"], kept["policy_version"])
    with in_place(parts.backend, parts.traits.samples_with):
        give_weights(parts.backend, parts.engine, state.policy_version, parts.traits.samples_with)
    return state


@contextlib.contextmanager
def _restoring(path: Path, part: str) -> Iterator[None]:
    """Whatever a part raises about a state that is not its own becomes a CheckpointError."""
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        what = f"the state of the {part} in {path} cannot be restored: {describe_error(error)}"
        raise CheckpointError(what, "use the versions of omni-rl and of the plugins that wrote it") from error


def newest(directory: RunDirectory) -> Path:
    """The folder of the newest complete checkpoint; CheckpointError if there is none."""
    path = checkpoint.latest(directory)
    if path is None:
        raise CheckpointError(
            f"{directory.path} has no checkpoint", f"train until there is one: omni-rl resume {directory.path}"
        )
    return path


def _metrics_sha256(directory: RunDirectory, state: State, origin: Origin) -> str | None:
    """None if somebody changed the metrics while the run was going on: that must not prevent a checkpoint."""
    with contextlib.suppress(CheckpointError, OSError):
        return metrics_hash(directory.contiguous_metrics(state.iteration, origin.row or None))
    return None


def _validations(directory: RunDirectory, state: State) -> dict[str, str]:
    """Hashes of the validations up to this iteration. None are known of a damaged file."""
    with contextlib.suppress(CheckpointError, OSError):
        return row_hashes([row for row in artifacts.validations(directory) if row["iteration"] <= state.iteration])
    return {}


def _tracker_states(parts: Assembly, note: Callable[[str], None]) -> dict[str, Any]:
    """The trackers' states by name; a tracker that raises loses its own state, not the checkpoint."""
    states = {}
    for name, tracker in zip(_tracker_names(parts), parts.trackers, strict=True):
        try:
            states[name] = tracker.state()
        except Exception as error:
            note(f"the tracker {name} does not say its state: {error}; a resumed run will start a new log there")
    return states


def _tracker_names(parts: Assembly) -> list[str]:
    """The trackers' names; a name that is used again gets a number."""
    names = [chosen.key for chosen in parts.resolved.trackers][: len(parts.trackers)]  # none on other ranks
    return [f"{name}-{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _restore_trackers(trackers: Sequence[Tracker], names: Sequence[str], kept: Any) -> None:
    """Restore by name, because trackers may be added, removed or reordered. With contract 1, ``kept`` was a list."""
    by_name = kept if isinstance(kept, dict) else dict(zip(names, kept, strict=False))
    for name, tracker in zip(names, trackers, strict=True):
        tracker.restore(by_name.get(name, {}))
