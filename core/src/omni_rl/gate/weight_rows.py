"""Rows that prove that training moves what samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from omni_rl.contracts.interfaces import SyncReport
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams
from omni_rl.contracts.verdicts import Row
from omni_rl.gate.probe import Probe, own_loop, sampled
from omni_rl.gate.rows import gap, judge

if TYPE_CHECKING:
    from omni_rl.run.start import Run

STEP = 0.02
"""How far weights are moved, relative to their size; adapters that are still 0, absolutely."""

NOTICED = 1e-6
"""A smaller change of a velocity, relative to its largest value, is rounding."""


def weight_rows(run: Run, probe: Probe) -> Iterator[Row]:
    """Every trainable weight gets a gradient, nothing else does, and the sampler sees a change of the weights."""
    yield _modes(run)
    with _moved(run):  # adapters start at zero, where half of them have no gradient
        yield _gradient(run, probe)
    yield _reaches_sampler(run, probe)


def _modes(run: Run) -> Row:
    training = [f"{c}.{n}".strip(".") for c, m in run.model.modules.items() for n, s in m.named_modules() if s.training]
    if not training:
        return judge("mode", True, "rollout and replay in eval mode")
    return judge("mode", False, f"{len(training)} modules are left in train mode, e.g. {training[0]}: call .eval()")


@contextmanager
def _moved(run: Run) -> Iterator[None]:
    """Every trainable weight off its present value, by a fixed random step; restored bit for bit."""
    parameters = run.model.parameters()
    kept = {n: p.data for n, p in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters.values():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        size = float(parameter.detach().square().mean().sqrt()) or 1.0
        parameter.data = parameter.data + STEP * size * noise
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]


def _gradient(run: Run, probe: Probe) -> Row:
    """Of the velocity at both ends of the schedule (two-expert models answer with another denoiser at each), and of the
    log-prob of the first sample's first stored step.
    """
    velocities = _velocities(run, probe)
    scores = [v.square().sum() for v in velocities]
    if probe.batch["timesteps"].shape[1]:
        scores.append(run.backend.policy.evaluate(probe.batch[:1], 0).log_prob.sum())
    if not all(score.requires_grad for score in scores):
        return judge("gradient", False, "none at all: a hook computes the velocity or its log-prob without gradients")
    torch.stack(scores).sum().backward()
    trained = run.model.parameters()
    silent = [n for n, p in trained.items() if p.grad is None or not bool(p.grad.any())]
    stray = _clear_gradients(run, trained)
    reached = f"reaches {len(trained) - len(silent)} of {len(trained)} trained tensors"
    broken = [n for n in silent if _matters(run, probe, n, velocities)]
    if broken:
        return judge("gradient", False, f"{reached}; {len(broken)} that matter get none, e.g. {broken[0]}")
    if stray:
        return judge("gradient", False, f"{reached}, and {len(stray)} that are not trained, e.g. {stray[0]}")
    return judge("gradient", True, reached + (f"; the model does not use the other {len(silent)}" if silent else ""))


def _velocities(run: Run, probe: Probe) -> list[torch.Tensor]:
    """The first request's velocities at x_T, every stream's, at the first and at the last timestep."""
    with torch.no_grad():
        state = run.hooks.prepare_encode(model=run.model, requests=probe.requests[:1])
    velocities: list[torch.Tensor] = []
    for t in state.table.timesteps[[0, -1]].to(run.model.device):
        velocity = run.backend.policy.predict(state.x, t[None], state.conditioning, dict(probe.requests[0].call))
        velocities += velocity.values()
    return velocities


def _clear_gradients(run: Run, trained: Mapping[str, nn.Parameter]) -> list[str]:
    """Drop all gradients; names of the tensors outside ``trained`` that had one or would get one."""
    stray = []
    for component, module in run.model.modules.items():
        for name, parameter in module.named_parameters():
            if f"{component}.{name}" not in trained and (parameter.grad is not None or parameter.requires_grad):
                stray.append(f"{component}.{name}")
            parameter.grad = None
    return stray


def _matters(run: Run, probe: Probe, name: str, velocities: Sequence[torch.Tensor]) -> bool:
    """Whether a velocity depends on this tensor, or on the weight that an adapter stands beside: then its missing
    gradient is a fault. A tensor that the model itself never uses may go without.
    """
    probed = _beside(run, name)
    kept = probed.data
    probed.data = kept + STEP * (kept.abs().mean() + 1)
    with torch.no_grad():
        moved = _velocities(run, probe)
    probed.data = kept
    return any(gap(m, v.detach()) > NOTICED for m, v in zip(moved, velocities, strict=True))


def _beside(run: Run, name: str) -> nn.Parameter:
    component, _, path = name.partition(".")
    denoiser = run.model.denoisers[component]
    if ".lora_" in path:
        path = path.partition(".lora_")[0] + ".base_layer.weight"
    return denoiser.get_parameter(path)


def _reaches_sampler(run: Run, probe: Probe) -> Row:
    """The engine's samples follow the weights there and back, as samples drawn in the trainer do; that every single
    weight counts shows in their agreement, because all of them are moved.
    """
    request = probe.requests[:1]
    before = _drawn(run, request)
    apart = _difference(before, _trainers(run, request))
    with _moved(run):
        report: SyncReport = run.engine.sync(run.policy_version)
        moved = _drawn(run, request)
        apart_moved = _difference(moved, _trainers(run, request))
    run.engine.sync(run.policy_version)
    after = _drawn(run, request)
    missing = run.model.parameters().keys() - report.landed.keys()
    change, back = _difference(moved, before), _difference(after, before)
    what = f"changing them changes samples by {change:.2g}"
    if report.policy_version != run.policy_version:
        what = f"the sampler reports policy version {report.policy_version} after a sync to {run.policy_version}"
        return judge("weights", False, what)
    if missing:
        return judge("weights", False, f"{len(missing)} weights do not reach the sampler, e.g. {min(missing)}")
    if change == 0:
        return judge("weights", False, "changing them changes no sample: the sampler keeps weights of its own")
    if not back <= 0.1 * change:  # an engine need not be deterministic to the bit; so written, NaN fails
        return judge("weights", False, f"{what}, and changing them back leaves a difference of {back:.2g}")
    if not apart_moved <= max(10 * apart, 1e-5 * change):
        where = f"samples then differ from the trainer's by {apart_moved:.2g} ({apart:.2g} before)"
        return judge("weights", False, f"{what}, but {where}: some do not reach the sampler")
    return judge("weights", True, f"{len(report.landed)} reach the sampler; {what}, as in the trainer")


def _drawn(run: Run, request: Sequence[Request]) -> Streams:
    """Final latents of one request from the engine."""
    (sample,) = sampled(run, request)
    assert sample.trajectory is not None
    return {n: stored["final"] for n, stored in sample.trajectory["latents"].items()}


def _trainers(run: Run, request: Sequence[Request]) -> Streams:
    """The same, from core's loop over the trainer's weights."""
    _, state = own_loop(run, request)
    return {n: x[0].cpu() for n, x in state.x.items()}


def _difference(a: Streams, b: Streams) -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in b)
