"""The requests of an iteration and of a validation. They depend only on the configuration, the seed and the number of
the iteration, so a resumed run makes exactly the same requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omni_rl.contracts.call import call_of_row
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.requests import Request, Sde
from omni_rl.contracts.schema import Config
from omni_rl.errors import clipped
from omni_rl.schedulers.types import NoiseKey

SHARED = -1
"""The sample number in the key of an x_T that all samples of a group share."""
VALIDATION = "validation"
"""The purpose in the keys of validation samples."""


def rollout_requests(
    config: Config, hooks: Any, prompts: PromptSet, iteration: int, policy_version: int
) -> list[Request]:
    """``rollout.prompts`` groups of ``rollout.group_size`` requests, group by group."""
    rollout, seed = config.rollout, config.run_seed
    rows = prompts.for_iteration(iteration, rollout.prompts, seed, config.data.shuffle)
    calls, sde = [rollout.call], Sde(**rollout.sde.model_dump())
    requests = []
    for index, (_, row) in enumerate(rows):
        window = hooks.sde_window(iteration=iteration, group=index, steps=rollout.steps, seed=seed)
        keys = [NoiseKey(seed, "rollout", iteration, index, member) for member in range(rollout.group_size)]
        shared = NoiseKey(seed, "rollout", iteration, index, SHARED) if rollout.share_initial_noise else None
        alike = {"steps": rollout.steps, "window": window, "sde": sde, "policy_version": policy_version}
        requests += _group(iteration * rollout.prompts + index, row, calls, keys, shared, **alike)
    return requests


def extreme_requests(config: Config, hooks: Any, prompts: PromptSet, policy_version: int) -> dict[str, Request]:
    """Requests of the rows with the smallest and the largest value of each argument that rows set (``data.call``).

    Texts count by their length. An argument that is the same in all rows is left out. The keys of the result say which
    value of which argument it is.
    """
    rollout, seed, requests = config.rollout, config.run_seed, {}
    for label, index in _extremes(prompts.rows):
        window = hooks.sde_window(iteration=0, group=index, steps=rollout.steps, seed=seed)
        alike = {"steps": rollout.steps, "window": window, "sde": Sde(**rollout.sde.model_dump())}
        keys = [NoiseKey(seed, "gate", 0, index, 0)]
        (requests[label],) = _group(
            index, prompts.rows[index], [rollout.call], keys, policy_version=policy_version, **alike
        )
    return requests


def _extremes(rows: Sequence[PromptRow]) -> Iterator[tuple[str, int]]:
    """(what is extreme, index of the row) for the arguments of the rows that are numbers or texts."""
    for name in sorted({name for row in rows for name in row.call}):
        sizes = {index: size for index, row in enumerate(rows) if (size := _size(row.call.get(name))) is not None}
        if len(set(sizes.values())) > 1:
            for word, pick in (("smallest", min), ("largest", max)):
                index = pick(sizes, key=sizes.__getitem__)
                yield f"the {word} {name} ({clipped(str(rows[index].call[name]))})", index


def _size(value: Any) -> float | None:
    if isinstance(value, str):
        return len(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def validation_requests(
    config: Config,
    rows: Sequence[PromptRow],
    policy_version: int,
    changes: Mapping[str, Any] | None = None,
    each: int | None = None,
) -> list[Request]:
    """``each`` requests per prompt (default ``validation.samples_per_prompt``), without SDE noise.

    The noise keys consist of ``validation.seed`` and the indices of prompt and sample, so that different runs are
    compared on equal noise. ``changes`` replace arguments of the pipeline, e.g. to switch guidance off;
    like those of ``validation.call``, they also replace arguments of the row (``data.call``).
    """
    validation = config.validation
    calls = [config.rollout.call, validation.call, changes or {}]
    steps, sde = validation.steps or config.rollout.steps, Sde(noise_level=0.0)
    requests = []
    for index, row in enumerate(rows):
        members = range(each or validation.samples_per_prompt)
        keys = [NoiseKey(validation.seed, VALIDATION, 0, index, member) for member in members]
        requests += _group(index, row, calls, keys, steps=steps, sde=sde, policy_version=policy_version)
    return requests


def _group(
    uid: int,
    row: PromptRow,
    calls: Sequence[Mapping[str, Any]],
    keys: Sequence[NoiseKey],
    shared: NoiseKey | None = None,
    **alike: Any,
) -> list[Request]:
    """A request of the prompt for each key; ``shared`` is the key of the x_T that they share, if they do."""
    negative, call = call_of_row(row.call, *calls)
    return [
        Request(
            uid=uid,
            sample_id=uid * len(keys) + member,
            prompt=row.prompt,
            negative_prompt=negative,
            metadata=row.metadata,
            key=key,
            initial_key=shared or key,
            call=call,
            media=row.media,
            **alike,
        )
        for member, key in enumerate(keys)
    ]
