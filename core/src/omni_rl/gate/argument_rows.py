"""Checks of the arguments that differ from prompt to prompt (``data.call``), at their smallest and largest values.

The other rows look at prompts of the first iteration only, where the value that
an engine or a plugin rounds may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omni_rl.contracts import trajectory
from omni_rl.contracts.requests import Request
from omni_rl.contracts.verdicts import Row
from omni_rl.errors import UserError
from omni_rl.gate.model_rows import Oracle, own_loop_row
from omni_rl.gate.probe import Probe, own_loop, sampled
from omni_rl.gate.replay_rows import difference_from_stored
from omni_rl.gate.rows import judge
from omni_rl.gate.subject import Subject


@dataclass(frozen=True)
class _Found:
    """What one request showed: the difference of log-probs (None: none are stored), and why it is wrong, if it is."""

    replay: float | None
    wrong: str | None


def argument_rows(subject: Subject, limit: float) -> Iterator[Row]:
    """A row about the requests of ``subject.extremes``; none if no argument differs from prompt to prompt.

    Args:
        limit: the largest difference of stored and replayed log-probs that rounding explains.
    """
    if not subject.extremes:
        return
    found = {label: _look_at(subject, request, limit) for label, request in subject.extremes.items()}
    wrong = [f"with {label}, {each.wrong}" for label, each in found.items() if each.wrong]
    gaps = [each.replay for each in found.values() if each.replay is not None]
    replayed = f"; log-probs replay to {max(gaps):.2g}" if gaps else ""
    good = f"samples are right with {_listed(list(found))}{replayed}"
    yield judge("row arguments", not wrong, "; ".join(wrong) or good)


def _look_at(subject: Subject, request: Request, limit: float) -> _Found:
    samples = sampled(subject.engine, [request])
    probe = Probe([request], samples, trajectory.collate(samples), [])
    stored = probe.batch["timesteps"].shape[1] > 0
    replay = difference_from_stored(subject, probe.batch) if stored else None
    if replay is not None and replay > limit:
        return _Found(replay, f"replayed log-probs differ from stored ones by {replay:.2g} (at most {limit:.2g})")
    row = _own_loop(subject, probe)
    return _Found(replay, row.detail if row.verdict == "fail" else None)


def _own_loop(subject: Subject, probe: Probe) -> Row:
    start, state = own_loop(subject, probe.requests, noise=False)
    try:
        return own_loop_row(subject, Oracle(subject, probe), start, state)
    except UserError as error:
        return Row("own loop", "info", f"not comparable: {error.what}")


def _listed(labels: list[str]) -> str:
    return " and ".join([", ".join(labels[:-1]), labels[-1]]) if len(labels) > 1 else labels[0]
