"""The few samples that the gate looks at, drawn exactly as training will draw them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict

from omni_rl import trajectory
from omni_rl.collecting import finished_groups
from omni_rl.errors import RunError
from omni_rl.planning import rollout_requests
from omni_rl.requests import NO_STEPS, Request
from omni_rl.types import Sample, Streams

if TYPE_CHECKING:
    from omni_rl.run import Run

PROMPTS, MEMBERS = 2, 4


@dataclass(frozen=True)
class Probe:
    """Requests, their samples, and the samples' trajectories as one batch (N,)."""

    requests: list[Request]
    samples: list[Sample]
    batch: TensorDict


def draw(run: Run) -> Probe:
    """Up to two prompts times four samples of the first iteration, with keys of their own."""
    requests = rollout_requests(run.config, run.hooks, run.prompts, 0, run.policy_version)
    first = sorted({r.uid for r in requests})[:PROMPTS]
    chosen = [r for u in first for r in [r for r in requests if r.uid == u][:MEMBERS]]
    keyed = [
        replace(r, key=replace(r.key, purpose="gate"), initial_key=replace(r.initial_key, purpose="gate"))
        for r in chosen
    ]
    samples = [s for group in finished_groups(run.engine, keyed) for s in group]
    failed = [s.error for s in samples if s.error]
    if failed:
        raise RunError(f"the engine failed {len(failed)} of the gate's {len(keyed)} samples: {failed[0]}")
    samples = sorted(samples, key=lambda s: s.request.sample_id)
    return Probe(keyed, samples, trajectory.collate(samples))


def noise_off(run: Run, requests: list[Request]) -> tuple[Streams, Streams, dict[str, torch.Tensor]]:
    """(x_T, final latents, conditioning) of these requests through core's loop without noise injection."""
    model, hooks = run.model, run.hooks
    still = [replace(r, window=NO_STEPS) for r in requests]
    with torch.no_grad():
        state = hooks.prepare_encode(model=model, requests=still)
        start = {name: x.clone() for name, x in state.x.items()}
        while not state.done:
            (velocity,) = hooks.denoise_step(model=model, states=[state])
            hooks.step_scheduler(model=model, state=state, velocity=velocity)
    return start, state.x, state.conditioning
