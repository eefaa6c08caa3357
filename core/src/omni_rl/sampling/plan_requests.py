"""The requests of an iteration and of a validation. They depend only on the configuration, the seed and the number of
the iteration, so a resumed run makes exactly the same requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omni_rl.contracts.call import effective_call, split_call
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.requests import NO_STEPS, Request, Sde
from omni_rl.contracts.schema import Config
from omni_rl.schedulers.types import NoiseKey

SHARED = -1
"""The sample number in the key of an x_T that all samples of a group share."""


def rollout_requests(
    config: Config, hooks: Any, prompts: PromptSet, iteration: int, policy_version: int
) -> list[Request]:
    """``rollout.prompts`` groups of ``rollout.group_size`` requests, group by group."""
    rollout, seed = config.rollout, config.run_seed
    rows = prompts.for_iteration(iteration, rollout.prompts, seed, config.data.shuffle)
    negative, call = split_call(effective_call(rollout.call))
    requests = []
    for index, (_, row) in enumerate(rows):
        window = hooks.sde_window(iteration=iteration, group=index, steps=rollout.steps, seed=seed)
        uid = iteration * rollout.prompts + index
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
                    call={**call, **row.call},
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
    """``each`` requests per prompt (default ``validation.samples_per_prompt``), without SDE noise.

    The noise keys consist of ``validation.seed`` and the indices of prompt and sample, so that different runs are
    compared on equal noise. ``changes`` replace arguments of the pipeline, e.g. to switch guidance off.
    """
    validation = config.validation
    negative, call = split_call(effective_call(config.rollout.call, validation.call, changes or {}))
    each = each or validation.samples_per_prompt
    requests = []
    for index, row in enumerate(rows):
        for member in range(each):
            key = NoiseKey(validation.seed, "validation", 0, index, member)
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
                    call={**call, **row.call},
                    media=row.media,
                    policy_version=policy_version,
                )
            )
    return requests
