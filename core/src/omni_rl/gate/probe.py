"""The samples that the gate checks, drawn with the run's own engine and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.interfaces import Engine
from omni_rl.contracts.requests import NO_STEPS, Request
from omni_rl.contracts.types import DenoiseState, Sample, Streams
from omni_rl.errors import RunError
from omni_rl.gate.rounding import nudged
from omni_rl.gate.subject import Sampler, Subject
from omni_rl.sampling.batches import form
from omni_rl.sampling.stream import finished_groups

PROMPTS, MEMBERS = 2, 4


@dataclass(frozen=True)
class Probe:
    """N requests, their samples, and the trajectories as one batch (N,).

    ``spare`` holds the other requests of the iteration. They are drawn only if all first samples have the same reward.
    """

    requests: list[Request]
    samples: list[Sample]
    batch: TensorDict
    spare: list[Request]

    @property
    def prompts(self) -> list[Request]:
        """The first request of each prompt."""
        return list({r.uid: r for r in reversed(self.requests)}.values())[::-1]


def draw(subject: Subject) -> Probe:
    """Draw up to four samples of up to two prompts of the first iteration, with noise that training does not use."""
    requests = [_keyed(request) for request in subject.requests]
    alike = {r.uid for r in requests if form(r) == form(requests[0])}  # these fit in one batch
    first = sorted(alike)[:PROMPTS]
    chosen = [r for u in first for r in [r for r in requests if r.uid == u][:MEMBERS]]
    samples = sampled(subject.engine, chosen)
    return Probe(chosen, samples, trajectory.collate(samples), [r for r in requests if r not in chosen])


def _keyed(request: Request) -> Request:
    key, initial_key = (replace(key, purpose="gate") for key in (request.key, request.initial_key))
    return replace(request, key=key, initial_key=initial_key)


def sampled(engine: Engine, requests: Sequence[Request]) -> list[Sample]:
    """The engine's samples, in the order of their ``sample_id``.

    Raises:
        RunError: a request failed, after all retries.
    """
    samples = [s for group in finished_groups(engine, requests) for s in group]
    failed = [s.error for s in samples if s.error]
    if failed:
        raise RunError(f"the engine could not draw {len(failed)} of the gate's {len(requests)} samples: {failed[0]}")
    return sorted(samples, key=lambda s: s.request.sample_id)


def own_loop(
    subject: Sampler, requests: Sequence[Request], noise: bool = True, nudge: bool = False
) -> tuple[Streams, DenoiseState]:
    """Sample the requests with core's loop in this process, without decoding.

    Returns x_T (B, ...) per stream and the state after the last step. ``noise=False``: all steps are ODE steps.
    ``nudge=True``: the text embeddings are changed by rounding (:func:`omni_rl.gate.rounding.nudged`).
    """
    model, hooks = subject.model, subject.hooks
    requests = list(requests) if noise else [replace(r, window=NO_STEPS) for r in requests]
    with torch.no_grad():
        state: DenoiseState = hooks.prepare_encode(model=model, requests=requests)
        if nudge:
            state.conditioning = nudged(state.conditioning, model.dtype)
        start = {name: x.clone() for name, x in state.x.items()}
        while not state.done:
            (velocity,) = hooks.denoise_step(model=model, states=[state])
            hooks.step_scheduler(model=model, state=state, velocity=velocity)
    return start, state
