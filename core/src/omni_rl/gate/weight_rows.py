"""Rows that prove that training moves what samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from omni_rl.contracts.interfaces import SyncReport, Weights
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Streams
from omni_rl.contracts.verdicts import Row
from omni_rl.gate.probe import Probe, own_loop, sampled
from omni_rl.gate.rows import gap, judge
from omni_rl.gate.subject import Sampler, Trainer

STEP = 0.02
"""How far weights are moved, relative to their size; adapters that are still 0, absolutely."""

NOTICED = 1e-6
"""A smaller change of a velocity, relative to its largest value, is rounding."""

ELSEWHERE = "not applicable: the backend keeps its weights in another process"


def weight_rows(subject: Trainer, probe: Probe) -> Iterator[Row]:
    """Every trainable weight gets a gradient, nothing else does, and the sampler sees a change of the weights."""
    yield _modes(subject.model)
    if subject.backend.model is None:
        yield Row("gradient", "info", ELSEWHERE)
        yield _stream_reaches_sampler(subject, probe)
        return
    with _moved(subject.model):  # adapters start at zero, where half of them have no gradient
        yield _gradient(subject, probe)
    yield _reaches_sampler(subject, probe)


def _modes(model: LoadedModel) -> Row:
    training = [f"{c}.{n}".strip(".") for c, m in model.modules.items() for n, s in m.named_modules() if s.training]
    if not training:
        return judge("mode", True, "rollout and replay in eval mode")
    return judge("mode", False, f"{len(training)} modules are left in train mode, e.g. {training[0]}: call .eval()")


@contextmanager
def _moved(model: LoadedModel) -> Iterator[None]:
    """Every trainable weight off its present value, by a fixed random step; restored bit for bit.

    The values wait on the host: on the device there may be no room for them a second time.
    """
    parameters = model.parameters()
    kept = {n: p.data.to("cpu", copy=True) for n, p in parameters.items()}
    try:
        generator = torch.Generator().manual_seed(0)
        for parameter in parameters.values():
            parameter.data.add_(_step(parameter.detach(), generator))
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data.copy_(kept[name])


def _step(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    size = float(value.square().mean().sqrt()) or 1.0
    return STEP * size * torch.randn(value.shape, generator=generator).to(value)


def _gradient(subject: Trainer, probe: Probe) -> Row:
    """Of the velocity at both ends of the schedule (two-expert models answer with another denoiser at each), and of the
    log-prob of the first sample's first stored step.
    """
    velocities = _velocities(subject, probe)
    scores = [v.square().sum() for v in velocities]
    if probe.batch["timesteps"].shape[1]:
        scores.append(subject.backend.policy.evaluate(probe.batch[:1], [0])[0].log_prob.sum())
    if not all(score.requires_grad for score in scores):
        return judge("gradient", False, "none at all: a hook computes the velocity or its log-prob without gradients")
    torch.stack(scores).sum().backward()
    trained = subject.model.parameters()
    silent = [n for n, p in trained.items() if p.grad is None or not bool(p.grad.any())]
    stray = _clear_gradients(subject.model, trained)
    reached = f"reaches {len(trained) - len(silent)} of {len(trained)} trained tensors"
    broken = [n for n in silent if _matters(subject, probe, n, velocities)]
    if broken:
        return judge("gradient", False, f"{reached}; {len(broken)} that matter get none, e.g. {broken[0]}")
    if stray:
        return judge("gradient", False, f"{reached}, and {len(stray)} that are not trained, e.g. {stray[0]}")
    return judge("gradient", True, reached + (f"; the model does not use the other {len(silent)}" if silent else ""))


def _velocities(subject: Trainer, probe: Probe) -> list[torch.Tensor]:
    """The first request's velocities at x_T, every stream's, at the first and at the last timestep."""
    with torch.no_grad():
        state = subject.hooks.prepare_encode(model=subject.model, requests=probe.requests[:1])
    velocities: list[torch.Tensor] = []
    for t in state.table.timesteps[[0, -1]].to(subject.model.device):
        velocity = subject.backend.policy.predict(state.x, t[None], state.conditioning, dict(probe.requests[0].call))
        velocities += velocity.values()
    return velocities


def _clear_gradients(model: LoadedModel, trained: Mapping[str, nn.Parameter]) -> list[str]:
    """Drop all gradients; names of the tensors outside ``trained`` that had one or would get one."""
    stray = []
    for component, module in model.modules.items():
        for name, parameter in module.named_parameters():
            if f"{component}.{name}" not in trained and (parameter.grad is not None or parameter.requires_grad):
                stray.append(f"{component}.{name}")
            parameter.grad = None
    return stray


def _matters(subject: Trainer, probe: Probe, name: str, velocities: Sequence[torch.Tensor]) -> bool:
    """Whether a velocity depends on this tensor, or on the weight that an adapter stands beside: then its missing
    gradient is a fault. A tensor that the model itself never uses may go without.
    """
    probed = _beside(subject.model, name)
    kept = probed.data
    try:
        probed.data = kept + STEP * (kept.abs().mean() + 1)
        with torch.no_grad():
            moved = _velocities(subject, probe)
    finally:
        probed.data = kept
    return any(gap(m, v.detach()) > NOTICED for m, v in zip(moved, velocities, strict=True))


def _beside(model: LoadedModel, name: str) -> nn.Parameter:
    component, _, path = name.partition(".")
    denoiser = model.denoisers[component]
    if ".lora_" in path:
        path = path.partition(".lora_")[0] + ".base_layer.weight"
    return denoiser.get_parameter(path)


def _reaches_sampler(subject: Trainer, probe: Probe) -> Row:
    """Change all weights, sync: engine and trainer samples must change alike. Restore them, sync: the change must
    vanish.

    That every single weight counts shows in their agreement, because all of them are changed.
    """
    request = probe.requests[:1]
    before = _drawn(subject, request)
    apart = _difference(before, _trainers(subject, request))
    try:
        with _moved(subject.model):
            report = subject.sync()
            moved = _drawn(subject, request)
            apart_moved = _difference(moved, _trainers(subject, request))
    finally:
        subject.sync()
    after = _drawn(subject, request)
    change, back = _difference(moved, before), _difference(after, before)
    refused = _refused(subject, report, change, back)
    what = f"changing them changes samples by {change:.2g}"
    if refused is None and not apart_moved <= max(10 * apart, 1e-5 * change):
        where = f"samples then differ from the trainer's by {apart_moved:.2g} ({apart:.2g} before)"
        return judge("weights", False, f"{what}, but {where}: some do not reach the sampler")
    return refused or judge("weights", True, f"{len(report.landed)} reach the sampler; {what}, as in the trainer")


def _stream_reaches_sampler(subject: Trainer, probe: Probe) -> Row:
    """The same for weights that are in another process: they are changed on their way to the engine."""
    engine, request = subject.engine, probe.requests[:1]
    form = engine.takes_weights
    if form == "none":
        return judge("weights", False, "the engine takes none, and those of the backend are in another process")
    before = _drawn(subject, request)
    try:
        report = engine.sync(subject.policy_version, _changed(subject.backend.weights("trained", form)))
        moved = _drawn(subject, request)
    finally:
        subject.sync()
    after = _drawn(subject, request)
    change, back = _difference(moved, before), _difference(after, before)
    sound = f"{len(report.landed)} reach the sampler; changing them changes samples by {change:.2g}"
    return _refused(subject, report, change, back) or judge("weights", True, sound)


def _changed(weights: Weights) -> Weights:
    generator = torch.Generator().manual_seed(0)
    for name, value in weights:
        yield name, value + _step(value, generator)


def _refused(subject: Trainer, report: SyncReport, change: float, back: float) -> Row | None:
    """The receipt, and that samples follow the weights both ways; None when all is well."""
    missing = set(subject.backend.weight_names(subject.engine.takes_weights)) - report.landed.keys()
    what = f"changing them changes samples by {change:.2g}"
    if report.policy_version != subject.policy_version:
        wrong = f"the sampler reports policy version {report.policy_version} after a sync to {subject.policy_version}"
        return judge("weights", False, wrong)
    if missing:
        return judge("weights", False, f"{len(missing)} weights do not reach the sampler, e.g. {min(missing)}")
    if change == 0:
        return judge("weights", False, "changing them changes no sample: the sampler keeps weights of its own")
    if not back <= 0.1 * change:  # an engine need not be deterministic to the bit; so written, NaN fails
        return judge("weights", False, f"{what}, and changing them back leaves a difference of {back:.2g}")
    return None


def _drawn(subject: Sampler, request: Sequence[Request]) -> Streams:
    """Final latents of one request from the engine."""
    (sample,) = sampled(subject.engine, request)
    assert sample.trajectory is not None
    return {n: stored["final"] for n, stored in sample.trajectory["latents"].items()}


def _trainers(subject: Sampler, request: Sequence[Request]) -> Streams:
    """The same, from core's loop over the trainer's weights."""
    _, state = own_loop(subject, request)
    return {n: x[0].cpu() for n, x in state.x.items()}


def _difference(a: Streams, b: Streams) -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in b)
