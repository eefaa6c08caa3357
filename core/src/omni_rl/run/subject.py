"""The parts of a run that the gate checks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from omni_rl.contracts.events import State
from omni_rl.gate.subject import Subject
from omni_rl.plugins.manager import diffuse_reason, overridden
from omni_rl.run.assembly import Assembly
from omni_rl.run.weight_sync import give_weights
from omni_rl.sampling.plan_requests import extreme_requests, rollout_requests


def subject_of(parts: Assembly, state: State) -> Subject:
    """The parts that the gate checks, at the run's current state."""
    return Subject(
        config=parts.config,
        model=parts.model,
        hooks=parts.hooks,
        engine=parts.engine,
        backend=parts.backend,
        rewards=parts.rewards,
        validation_rewards=parts.validation_rewards,
        requests=rollout_requests(parts.config, parts.hooks, parts.prompts, 0, state.policy_version),
        extremes=extreme_requests(parts.config, parts.hooks, parts.prompts, state.policy_version),
        policy_version=state.policy_version,
        clip_range=parts.traits.clip_range,
        overridden=frozenset(overridden(parts.manager)),
        overridden_above_model=frozenset(overridden(parts.manager, above="model")),
        diffuse_reason=diffuse_reason(parts.manager),
        memory=parts.memory,
        suggested=frozenset(_suggested(parts)),
        sync=partial(give_weights, parts.backend, parts.engine, state.policy_version, "trained"),
    )


def _suggested(parts: Assembly) -> Iterator[str]:
    """Arguments of ``rollout.call`` that a plugin's defaults set."""
    tree = parts.resolved.tree
    yield from (name for name in parts.config.rollout.call if tree.source(("rollout", "call", name)).by == "plugin")
