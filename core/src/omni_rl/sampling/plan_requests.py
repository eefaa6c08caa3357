"""Which samples an iteration and a validation ask for. Everything here is a function of the configuration, the seed and
the iteration's number, so that a resumed run asks for exactly what an uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omni_rl.contracts.call import call_of_row
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.requests import NO_STEPS, Request, Sde
from omni_rl.contracts.schema import Config
from omni_rl.schedulers.types import NoiseKey

SHARED = -1
"""The sample number in the key of an x_T that a whole group shares."""
VALIDATION = "validation"
"""The purpose in the keys of validation samples."""


def rollout_requests(
    config: Config, hooks: Any, prompts: PromptSet, iteration: int, policy_version: int
) -> list[Request]:
    """``rollout.prompts`` groups of ``rollout.group_size`` requests, group by group."""
    rollout, seed = config.rollout, config.run_seed
    rows = prompts.for_iteration(iteration, rollout.prompts, seed, config.data.shuffle)
    requests = []
    for index, (_, row) in enumerate(rows):
        window = hooks.sde_window(iteration=iteration, group=index, steps=rollout.steps, seed=seed)
        uid = iteration * rollout.prompts + index
        negative, call = call_of_row(row.call, rollout.call)
        for member in range(rollout.group_size):
            key = NoiseKey(seed, "rollout", iteration, index, member)
            shared = NoiseKey(seed, "rollout", iteration, index, SHARED)
            requests.append(
                Request(
                    uid=uid,
                    sample_id=uid * rollout.group_size + member,
                    prompt=row.prompt,
                    negative_prompt=negative,
                    metadata=row.metadata,
                    key=key,
                    initial_key=shared if rollout.share_initial_noise else key,
                    steps=rollout.steps,
                    window=window,
                    sde=Sde(**rollout.sde.model_dump()),
                    call=call,
                    media=row.media,
                    policy_version=policy_version,
                )
            )
    return requests


def validation_requests(
    config: Config,
    rows: Sequence[PromptRow],
    policy_version: int,
    changes: Mapping[str, Any] | None = None,
    each: int | None = None,
) -> list[Request]:
    """Every prompt ``each`` (validation.samples_per_prompt) times, without noise injection, keyed by its place.

    The keys hold ``validation.seed`` and nothing of the run, so that two runs are compared on equal noise. ``changes``
    override the call's arguments (guidance off, for instance); like those of ``validation.call``, they override the
    arguments of rows (``data.call``), too.
    """
    validation = config.validation
    each = each or validation.samples_per_prompt
    requests = []
    for index, row in enumerate(rows):
        negative, call = call_of_row(row.call, config.rollout.call, validation.call, changes or {})
        for member in range(each):
            key = NoiseKey(validation.seed, VALIDATION, 0, index, member)
            requests.append(
                Request(
                    uid=index,
                    sample_id=index * each + member,
                    prompt=row.prompt,
                    negative_prompt=negative,
                    metadata=row.metadata,
                    key=key,
                    initial_key=key,
                    steps=validation.steps or config.rollout.steps,
                    window=NO_STEPS,
                    sde=Sde(noise_level=0.0),
                    call=call,
                    media=row.media,
                    policy_version=policy_version,
                )
            )
    return requests
