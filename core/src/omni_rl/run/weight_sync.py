"""Weights on their way from the backend to the engine, and which copy of them samples when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from omni_rl.contracts.interfaces import Backend, Engine, SyncReport
from omni_rl.contracts.traits import Copy
from omni_rl.errors import RunError


def give_weights(backend: Backend, engine: Engine, version: int, copy: Copy) -> SyncReport:
    """Let the engine draw with a copy of the weights, under this policy version."""
    form = engine.takes_weights
    return engine.sync(version, iter(()) if form == "none" else backend.weights(copy, form))


def sync_weights(backend: Backend, engine: Engine, version: int, copy: Copy) -> None:
    """:func:`give_weights`, and check the receipt: every weight landed, under the new version.

    Raises:
        RunError: one did not.
    """
    with in_place(backend, copy):
        report = give_weights(backend, engine, version, copy)
    missing = set(backend.weight_names(engine.takes_weights)) - report.landed.keys()
    if missing or report.policy_version != version:
        what = f"{len(missing)} weights did not reach it, e.g. {min(missing)}" if missing else "it kept an old version"
        raise RunError(f"the engine did not take policy version {version}: {what}")


def in_place(backend: Backend, copy: Copy) -> contextlib.AbstractContextManager[None]:
    """The backend's model holds that copy, for an engine that samples from it."""
    return contextlib.nullcontext() if copy == "trained" else backend.policy.weights(copy)


@contextlib.contextmanager
def trained_weights(backend: Backend, engine: Engine, version: int, samples_with: Copy) -> Iterator[None]:
    """The engine draws with the trained weights meanwhile, whatever copy rollouts are drawn with."""
    if samples_with == "trained":
        yield
        return
    give_weights(backend, engine, version, "trained")
    try:
        yield
    finally:
        with in_place(backend, samples_with):
            give_weights(backend, engine, version, samples_with)


@contextlib.contextmanager
def evaluated(backend: Backend, engine: Engine, version: int, samples_with: Copy, averaged: bool) -> Iterator[None]:
    """The weights that validation looks at, in backend and engine: the average if there is one, else the trained."""
    copy: Copy = "ema" if averaged else "trained"
    if copy == samples_with:
        yield
        return
    with in_place(backend, copy):
        give_weights(backend, engine, version, copy)
        yield
    with in_place(backend, samples_with):
        give_weights(backend, engine, version, samples_with)
