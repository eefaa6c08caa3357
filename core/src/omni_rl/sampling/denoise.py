"""The denoising loop in four phases: core's defaults of the rollout hooks.

``prepare_encode`` -> (``denoise_step`` -> ``step_scheduler``) x steps -> ``post_decode``. ``diffuse`` runs these phases
in a loop; an engine with continuous batching runs the same phases with several states at once. omni-rl has no other
denoising loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.hooks import hookimpl
from omni_rl.contracts.media import quantise
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import NOT_FINITE, DenoiseState, Sample, SigmaTable, Streams, Tensors
from omni_rl.model.encoding import encode, on_device
from omni_rl.sampling.schedule import tables_of
from omni_rl.schedulers import FlowMatchSDEDiscreteScheduler
from omni_rl.schedulers.randomness import INITIAL, draw_seed, randn, randn_rows
from omni_rl.schedulers.transition import Transition, joint_log_prob, transition

MASK = "mask/"
"""Prefix of masks among the tensors that ``prepare_condition`` returns."""


@dataclass
class Recording:
    """The stored steps of the SDE window; T is the window's size, equal for all rows of a state.

    Attributes:
        start: (B,) int64, the first step of each row's window.
        latents: per stream (B, T + 1, ...) fp32.
        log_probs: (B, T) fp32.
        timesteps: (B, T) fp32.
        sigmas: per stream (B, T + 1) fp32.
    """

    start: torch.Tensor
    latents: Streams
    log_probs: torch.Tensor
    timesteps: torch.Tensor
    sigmas: Streams


@hookimpl
def diffuse(model: LoadedModel, requests: Sequence[Request]) -> Sequence[Sample]:
    """Run the four phases. If a group shares x_T, its steps before the window are computed once for the group."""
    state = model.hooks.prepare_encode(model=model, requests=sharing(requests))
    while not state.done:
        if len(state.requests) < len(requests) and state.step == min(r.window.start for r in requests):
            state = fork(state, requests)
        (velocity,) = model.hooks.denoise_step(model=model, states=[state])
        model.hooks.step_scheduler(model=model, state=state, velocity=velocity)
    return model.hooks.post_decode(model=model, state=state)  # type: ignore[no-any-return]


def sharing(requests: Sequence[Request]) -> list[Request]:
    """One request per group with a shared x_T; all requests if a window starts at step 0."""
    if min(r.window.start for r in requests) == 0:
        return list(requests)
    return list({(r.uid, r.initial_key): r for r in reversed(requests)}.values())[::-1]


def fork(state: DenoiseState, requests: Sequence[Request]) -> DenoiseState:
    """``state`` at the same step, with one row for each of ``requests``; no window may have started."""
    row_of = {(r.uid, r.initial_key): i for i, r in enumerate(state.requests)}
    rows = torch.tensor([row_of[r.uid, r.initial_key] for r in requests])

    def spread(tensors: Mapping[str, torch.Tensor]) -> Tensors:
        return {n: v[rows.to(v.device)] for n, v in tensors.items()}

    x = spread(state.x)
    masks = {n: m if len(m) == 1 else spread({n: m})[n] for n, m in state.masks.items()}
    recorded = _empty_recording(requests, x, state.tables)
    return DenoiseState(
        list(requests), x, spread(state.conditioning), state.tables, spread(state.tokens), masks, state.step, recorded
    )


@hookimpl
def prepare_encode(model: LoadedModel, requests: Sequence[Request]) -> DenoiseState:
    """Encode the prompts and media, set the schedule, and draw x_T from the requests' keys."""
    first = requests[0]
    assert all(r.steps == first.steps and r.call == first.call for r in requests), "rows of a state share a schedule"
    conditioning, tokens = encode(model, requests)
    condition = on_device(model, model.hooks.prepare_condition(model=model, requests=requests, call=first.call))
    masks = {n.removeprefix(MASK): v.bool() for n, v in condition.items() if n.startswith(MASK)}
    conditioning |= {n: v for n, v in condition.items() if not n.startswith(MASK)}
    shapes = model.hooks.prepare_latents(model=model, conditioning=conditioning, call=first.call)
    tables = tables_of(model, model.hooks, first, shapes, conditioning)
    state = begin(requests, shapes, tables, model.device)
    state.conditioning, state.tokens, state.masks = conditioning, tokens, masks
    return state


def begin(
    requests: Sequence[Request],
    shapes: Mapping[str, Sequence[int]],
    tables: Mapping[str, SigmaTable],
    device: torch.device,
) -> DenoiseState:
    """A state at x_T, drawn from the requests' keys, without conditioning.

    Args:
        shapes: per stream, the shape of one sample's latents.
    """
    keys = [r.initial_key for r in requests]
    x = {name: randn_rows(keys, name, INITIAL, shape).to(device) for name, shape in shapes.items()}
    return DenoiseState(list(requests), x, {}, tables, recorded=_empty_recording(requests, x, tables))


def _empty_recording(requests: Sequence[Request], x: Streams, tables: Mapping[str, SigmaTable]) -> Recording:
    """Memory for the steps of the window. The first latents are x_T; :func:`_record` replaces them."""
    sizes = {r.window.size for r in requests}
    assert len(sizes) == 1, "rows of a state have windows of equal size"
    size, rows = sizes.pop(), len(requests)
    start = torch.tensor([r.window.start for r in requests])
    index = start[:, None] + torch.arange(size + 1)  # (B, T + 1)
    latents = {name: torch.stack([state] + [torch.zeros_like(state)] * size, 1) for name, state in x.items()}
    device = next(iter(x.values())).device
    timesteps = tables[next(iter(x))].timesteps[index[:, :size]]  # (B, T)
    sigmas = {name: tables[name].sigmas[index] for name in x}  # (B, T + 1)
    return Recording(start, latents, torch.zeros(rows, size, device=device), timesteps, sigmas)


@hookimpl
def denoise_step(model: LoadedModel, states: Sequence[DenoiseState]) -> Sequence[Streams]:
    """The velocities of each state at its current step."""
    velocities = []
    for state in states:
        t = state.table.timesteps[state.step].expand(len(state.requests)).to(model.device)  # (B,)
        step = torch.full((len(state.requests),), state.step, device=model.device)
        with model.compute():
            velocity = model.hooks.predict(
                model=model, x=state.x, t=t, conditioning=state.conditioning, call=state.requests[0].call, step=step
            )
        velocities.append({name: v.float() for name, v in velocity.items()})
    return velocities


@hookimpl
def step_scheduler(model: LoadedModel, state: DenoiseState, velocity: Streams) -> bool:
    """Sample the next latents of every row: with noise inside the row's window, by an ODE step outside."""
    i, requests = state.step, state.requests
    inside = torch.tensor([i in r.window for r in requests])
    # float64, as in replay: eta must be the same number to the last bit
    level = torch.tensor([r.sde.noise_level for r in requests], dtype=torch.float64) * inside  # (B,)
    kind = requests[0].sde
    steps = {name: _transition(state, name, velocity[name], level) for name, x in state.x.items()}
    noisy = bool((level > 0).any())
    following = {name: _sampled(state, name, s) if noisy else s.mean for name, s in steps.items()}
    following = {name: _keep_frozen(state, name, value) for name, value in following.items()}
    _record(state, inside, following, lambda: joint_log_prob(steps, following, state.masks, kind.log_prob))
    state.x = following
    state.step += 1
    return True


def _transition(state: DenoiseState, stream: str, velocity: torch.Tensor, level: torch.Tensor) -> Transition:
    x, sigmas, i = state.x[stream], state.tables[stream].sigmas, state.step
    return transition(x, velocity, sigmas[i], sigmas[i + 1], level.to(x.device), state.requests[0].sde.type, i == 0)


def _sampled(state: DenoiseState, stream: str, step: Transition) -> torch.Tensor:
    x = state.x[stream]
    noise = noise_of(state.requests, stream, x.shape[1:], [state.step] * len(x))  # (B, ...)
    return step.sample(noise.to(x.device))


def noise_of(
    requests: Sequence[Request], stream: str, shape: Sequence[int], steps: Sequence[int] | None = None
) -> torch.Tensor:
    """Noise (B, *shape) fp32 on the CPU, each row at its step in ``steps``; default: the first step of its window."""
    at = [r.window.start for r in requests] if steps is None else steps
    return torch.stack([randn(draw_seed(r.key, stream, i), shape) for r, i in zip(requests, at, strict=True)])


def _keep_frozen(state: DenoiseState, stream: str, following: torch.Tensor) -> torch.Tensor:
    mask = state.masks.get(stream)
    return following if mask is None else torch.where(mask, following, state.x[stream])


def _record(state: DenoiseState, inside: torch.Tensor, following: Streams, log_prob: Any) -> None:
    rows = inside.nonzero().flatten()
    if not len(rows):
        return
    recorded: Recording = state.recorded
    slot = state.step - recorded.start[rows]
    recorded.log_probs[rows, slot] = log_prob()[rows]
    for name, kept in recorded.latents.items():
        kept[rows, slot] = state.x[name][rows]
        kept[rows, slot + 1] = following[name][rows]


@hookimpl
def post_decode(model: LoadedModel, state: DenoiseState) -> Sequence[Sample]:
    """Decode and quantise the media, and build one trajectory per request; one whose media are NaN has failed."""
    call = state.requests[0].call
    decoded = model.hooks.decode_latents(model=model, latents=state.x, conditioning=state.conditioning, call=call)
    media = {kind: quantise(kind, value) for kind, value in decoded.items()}
    batch = recorded(state, media)
    rows = [value.reshape(len(value), -1) for value in decoded.values()]
    finite = torch.stack([row.isfinite().all(1).cpu() for row in rows]).all(0).tolist()
    return [
        Sample(request, row) if good else Sample(request, error=NOT_FINITE)
        for request, row, good in zip(state.requests, batch.unbind(0), finite, strict=True)
    ]


def recorded(state: DenoiseState, media: Tensors) -> TensorDict:
    """The trajectories (B,) of a finished state, on the CPU; ``media`` (B, ...) by kind."""
    kept: Recording = state.recorded
    rows = len(state.requests)
    latents = {n: {"all": x, "final": state.x[n]} for n, x in kept.latents.items()}
    entries: dict[str, Any] = {
        "latents": latents,
        "log_probs": kept.log_probs,
        "timesteps": kept.timesteps,
        "sigmas": next(iter(kept.sigmas.values())),
        "start": kept.start,
        "media": media,
        "draws": {n: _draws(state.requests, n) for n in latents},
        "schedule": _schedule(state),
        **trajectory.text_entries(state.conditioning, state.tokens),
        **trajectory.identity(state.requests),
    }
    if own := {n: s for n, s in kept.sigmas.items() if not torch.equal(s, entries["sigmas"])}:
        entries["stream_sigmas"] = own
    if state.masks:
        entries["mask"] = {n: m.expand(rows, *m.shape[1:]) for n, m in state.masks.items()}
    if call := trajectory.numeric_call(state.requests[0].call, rows):
        entries["call"] = call
    return TensorDict(entries, batch_size=[rows]).cpu()


def _draws(requests: Sequence[Request], stream: str) -> torch.Tensor:
    """Seeds (B, T) int64 of the noise in each row's window."""
    seeds = [[draw_seed(r.key, stream, i) for i in range(r.window.start, r.window.stop)] for r in requests]
    return torch.tensor(seeds, dtype=torch.int64).view(len(requests), requests[0].window.size)


def _schedule(state: DenoiseState) -> Tensors:
    """Timesteps (B, steps) and sigmas (B, steps + 1) of the whole schedule."""
    rows = len(state.requests)
    return {"timesteps": state.table.timesteps.expand(rows, -1), "sigmas": state.table.sigmas.expand(rows, -1)}


@hookimpl
def build_scheduler(model: LoadedModel, table: SigmaTable) -> FlowMatchSDEDiscreteScheduler:
    """The SDE scheduler with exactly this table."""
    scheduler: FlowMatchSDEDiscreteScheduler = FlowMatchSDEDiscreteScheduler()
    scheduler.set_table(table.timesteps, table.sigmas)
    return scheduler
