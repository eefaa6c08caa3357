"""Read an engine's samples as they finish: retry failed requests, check identities, and collect groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.requests import Request
from omni_rl.contracts.trajectory import numeric_call
from omni_rl.contracts.types import NOT_FINITE, Sample
from omni_rl.errors import RunError
from omni_rl.parallel.layout import data_ranks

RETRIES = 2
"""How often a failed request is repeated, with the same keys and therefore the same noise."""


def finished_groups(engine: Engine, requests: Sequence[Request]) -> Iterator[list[Sample]]:
    """Yield each group when it is complete. Requests that fail even after retries give samples without trajectory.

    A sample whose latents are not finite has failed; it is not retried, because the same keys give the same latents.

    Raises:
        RunError: the engine returned a wrong sample, or lost a request; or no sample has finite latents.
    """
    expected = Counter(request.uid for request in requests)
    arrived: dict[int, list[Sample]] = defaultdict(list)
    broken = 0
    for sample in _with_retries(engine, requests):
        broken += sample.error == NOT_FINITE
        group = arrived[sample.request.uid]
        group.append(sample)
        if len(group) == expected[sample.request.uid]:
            yield sorted(group, key=lambda s: s.request.sample_id)
    refuse_all_broken(broken, len(requests), part=data_ranks().size > 1)


def refuse_all_broken(broken: int, drawn: int, part: bool = False) -> None:
    """Raise RunError if all samples that were drawn are broken; not if they are only a ``part`` of an iteration's."""
    if drawn and broken == drawn and not part:
        raise RunError(
            f"all {broken} samples are NaN or infinite: the model's weights or its arithmetic are broken",
            "find out since when with the curves in metrics.jsonl; train with `precision: fp32`, a smaller train.lr or"
            " train.max_grad_norm; `gate: on` finds weights that are broken from the start",
        )


def _with_retries(engine: Engine, requests: Sequence[Request]) -> Iterator[Sample]:
    open_requests = list(requests)
    for last in [False] * RETRIES + [True]:
        engine.submit(open_requests)
        outstanding = {request.sample_id: request for request in open_requests}
        failed = []
        for sample in engine.completed():
            if sample.request.sample_id not in outstanding:
                raise RunError(f"the engine returned sample {sample.request.sample_id} twice or without a request")
            sample = replace(sample, request=outstanding.pop(sample.request.sample_id))  # an engine may change its own
            if sample.error in (None, NOT_FINITE) or last:
                _check_identity(sample)
                yield _require_finite(sample)
            else:
                failed.append(sample.request)
        if outstanding:
            lost = f"{len(outstanding)} of {len(open_requests)} requests, e.g. sample {min(outstanding)}"
            raise RunError(f"the engine lost {lost}")
        if not failed:
            return
        open_requests = failed


def _require_finite(sample: Sample) -> Sample:
    """A failed sample in place of one whose latents are not finite: its pictures are black and say nothing."""
    if sample.trajectory is None:
        return sample
    finite = all(bool(kept["final"].isfinite().all()) for kept in sample.trajectory.get("latents", {}).values())
    return sample if finite else Sample(sample.request, error=NOT_FINITE)


def _check_identity(sample: Sample) -> None:
    """Raise RunError if the trajectory belongs to another request or to another policy version, or has
    other arguments than its request.
    """
    if sample.trajectory is None:
        return
    for name in ("uid", "sample_id", "policy_version"):
        got, wanted = int(sample.trajectory[name]), getattr(sample.request, name)
        if got != wanted:
            raise RunError(f"the engine returned {name} {got} for the request with {name} {wanted}")
    _check_arguments(sample.trajectory.get("call", {}), sample.request)


def _check_arguments(stored: Mapping[str, torch.Tensor], request: Request) -> None:
    """Raise RunError if a numeric argument of a trajectory is not the request's: the sample is another one."""
    for name, wanted in numeric_call(request.call, 1).items():
        got = stored[name].item() if name in stored.keys() else None
        if got is not None and got != wanted.item():
            asked = wanted.item()
            raise RunError(f"the engine returned a sample with {name} {got} for the request with {name} {asked}")
