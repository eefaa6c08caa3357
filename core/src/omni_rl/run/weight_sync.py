"""Send weights from the backend to the engine, and choose the copy of the weights that samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from omni_rl.contracts.interfaces import Backend, Engine, SyncReport
from omni_rl.contracts.traits import Copy
from omni_rl.errors import RunError


def give_weights(backend: Backend, engine: Engine, version: int, copy: Copy) -> SyncReport:
    """Send a copy of the weights to the engine, which then samples with it as this policy version."""
    form = engine.takes_weights
    return engine.sync(version, iter(()) if form == "none" else backend.weights(copy, form))


def sync_weights(backend: Backend, engine: Engine, version: int, copy: Copy) -> None:
    """:func:`give_weights`, and check the engine's report: it has every weight and the new version.

    Raises:
        RunError: a weight is missing, or the version is wrong.
    """
    with in_place(backend, copy):
        report = give_weights(backend, engine, version, copy)
    missing = set(backend.weight_names(engine.takes_weights)) - report.landed.keys()
    if missing or report.policy_version != version:
        reported = f"it reports version {report.policy_version}"
        what = f"{len(missing)} weights did not reach it, e.g. {min(missing)}" if missing else reported
        raise RunError(f"the engine does not have policy version {version}: {what}")


def in_place(backend: Backend, copy: Copy) -> contextlib.AbstractContextManager[None]:
    """A context in which the backend's model has that copy, for an engine that samples with this model."""
    return contextlib.nullcontext() if copy == "trained" else backend.policy.weights(copy)


@contextlib.contextmanager
def engine_with(copy: Copy, backend: Backend, engine: Engine, version: int, samples_with: Copy) -> Iterator[None]:
    """A context in which backend and engine have that copy of the weights, even if rollouts use ``samples_with``."""
    if copy == samples_with:
        yield
        return
    with in_place(backend, copy):
        give_weights(backend, engine, version, copy)
        yield
    with in_place(backend, samples_with):  # not after an error, which ends the run: the engine may be the cause
        give_weights(backend, engine, version, samples_with)
