"""Samples of an engine as they finish: retried, checked, and collected by group."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample
from omni_rl.errors import RunError

RETRIES = 2
"""How often a request that the engine failed is asked for again, with the same keys and therefore the same draws."""


def finished_groups(engine: Engine, requests: Sequence[Request]) -> Iterator[list[Sample]]:
    """Whole groups, as they become complete; failed requests are retried, then returned without a trajectory."""
    expected = Counter(request.uid for request in requests)
    arrived: dict[int, list[Sample]] = defaultdict(list)
    for sample in _with_retries(engine, requests):
        group = arrived[sample.request.uid]
        group.append(sample)
        if len(group) == expected[sample.request.uid]:
            yield sorted(group, key=lambda s: s.request.sample_id)


def _with_retries(engine: Engine, requests: Sequence[Request]) -> Iterator[Sample]:
    asked = list(requests)
    for last in [False] * RETRIES + [True]:
        engine.submit(asked)
        outstanding = {request.sample_id for request in asked}
        failed = []
        for sample in engine.completed():
            if sample.request.sample_id not in outstanding:
                raise RunError(f"the engine returned sample {sample.request.sample_id} twice or unasked")
            outstanding.remove(sample.request.sample_id)
            if sample.error is None or last:
                _check_identity(sample)
                yield sample
            else:
                failed.append(sample.request)
        if outstanding:
            raise RunError(f"the engine lost {len(outstanding)} of {len(asked)} requests, e.g. {min(outstanding)}")
        if not failed:
            return
        asked = failed


def _check_identity(sample: Sample) -> None:
    """An engine that hands over another request's trajectory, or one of an old policy, must not be trained on."""
    if sample.trajectory is None:
        return
    for name in ("uid", "sample_id", "policy_version"):
        got, wanted = int(sample.trajectory[name]), getattr(sample.request, name)
        if got != wanted:
            raise RunError(f"the engine returned {name} {got} for the request with {name} {wanted}")
