"""Checks that training updates the weights with which the engine samples."""

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
from omni_rl.model.boundary import foreign
from omni_rl.parallel.agreement import total
from omni_rl.parallel.whole import own_part, part_of, whole
from omni_rl.universal.capture import NEEDS_PLUGIN

STEP = 0.02
"""Standard deviation of the change of a weight, relative to its root mean square; absolute for tensors that are 0."""

NOTICED = 1e-6
"""Smaller changes of a velocity, relative to its largest value, count as rounding."""

ELSEWHERE = "not applicable: the backend keeps its weights in another process"


def weight_rows(subject: Trainer, probe: Probe) -> Iterator[Row]:
    """Rows about train mode, gradients, and weights that reach the engine."""
    yield _modes(subject.model)
    if subject.backend.model is None:
        yield Row("gradient", "info", ELSEWHERE)
        yield _stream_reaches_sampler(subject, probe)
        return
    with _moved(subject.model):  # LoRA starts with B = 0, where A has no gradient
        yield _gradient(subject, probe)
    yield _reaches_sampler(subject, probe)


def _modes(model: LoadedModel) -> Row:
    training = [f"{c}.{n}".strip(".") for c, m in model.modules.items() for n, s in m.named_modules() if s.training]
    if not training:
        return judge("mode", True, "rollout and replay in eval mode")
    return judge("mode", False, f"{len(training)} modules are left in train mode, e.g. {training[0]}: call .eval()")


@contextmanager
def _moved(model: LoadedModel) -> Iterator[None]:
    """Change every trainable weight by a fixed random step inside the context; restore it bit for bit afterwards.

    The original values are kept on the CPU, because the device may have no memory for a second copy.
    """
    parts = {n: own_part(p) for n, p in model.parameters().items()}
    kept = {n: part.to("cpu", copy=True) for n, part in parts.items()}
    try:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.parameters().items():
            parts[name].add_(part_of(_step(parameter.detach(), generator), parameter).to(parts[name]))
        yield
    finally:
        for name, part in parts.items():
            part.copy_(kept[name])


def _step(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The whole step (...), also for a tensor of which each rank holds a part."""
    size = float(whole(value.square().mean().sqrt())) or 1.0
    return STEP * size * torch.randn(value.shape, generator=generator).to(value.device, value.dtype)


def _gradient(subject: Trainer, probe: Probe) -> Row:
    """Checks the gradients of the velocity at both ends of the schedule (models with two experts use a different one at
    each end), and of the log-prob of the first sample's first stored step.
    """
    velocities = _velocities(subject, probe)
    scores = [v.square().sum() for v in velocities]
    if probe.batch["timesteps"].shape[1]:
        scores.append(subject.backend.policy.evaluate(probe.batch[:1], [0])[0].log_prob.sum())
    if not all(score.requires_grad for score in scores):
        return judge("gradient", False, "no gradient: a hook computes the velocity or the log-prob without gradients")
    with foreign(f"{subject.model.architecture} cannot compute gradients", NEEDS_PLUGIN):
        torch.stack(scores).sum().backward()
    trained = subject.model.parameters()
    silent = _without_gradient(trained)
    stray = _clear_gradients(subject.model, trained)
    reached = f"{len(trained) - len(silent)} of {len(trained)} trained tensors get a gradient"
    broken = [n for n in silent if _matters(subject, probe, n, velocities)]
    if broken:
        what = f"{reached}; {len(broken)} that the velocity depends on get none, e.g. {broken[0]}"
        return judge("gradient", False, what)
    if stray:
        return judge("gradient", False, f"{reached}, and {len(stray)} that are not trained, e.g. {stray[0]}")
    return judge("gradient", True, reached + (f"; the model does not use the other {len(silent)}" if silent else ""))


def _velocities(subject: Trainer, probe: Probe) -> list[torch.Tensor]:
    """The first request's velocities at x_T, for every stream, at the first and at the last timestep."""
    with torch.no_grad():
        state = subject.hooks.prepare_encode(model=subject.model, requests=probe.requests[:1])
    velocities: list[torch.Tensor] = []
    for t in state.table.timesteps[[0, -1]].to(subject.model.device):
        velocity = subject.backend.policy.predict(state.x, t[None], state.conditioning, dict(probe.requests[0].call))
        velocities += velocity.values()
    return velocities


def _without_gradient(trained: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of tensors that get no gradient on any rank: one rank may see a part of the text, or of the weights."""
    found = [p.grad is not None and bool(own_part(p.grad).any()) for p in trained.values()]
    ranks = total(torch.tensor(found, dtype=torch.float32)).tolist()
    return [name for name, count in zip(trained, ranks, strict=True) if count == 0]


def _clear_gradients(model: LoadedModel, trained: Mapping[str, nn.Parameter]) -> list[str]:
    """Delete all gradients; return the names of tensors outside ``trained`` that had a gradient or require one."""
    stray = []
    for component, module in model.modules.items():
        for name, parameter in module.named_parameters():
            if f"{component}.{name}" not in trained and (parameter.grad is not None or parameter.requires_grad):
                stray.append(f"{component}.{name}")
            parameter.grad = None
    return stray


def _matters(subject: Trainer, probe: Probe, name: str, velocities: Sequence[torch.Tensor]) -> bool:
    """Whether a velocity depends on this tensor (for LoRA: on the adapter's base weight). If so, a missing gradient is
    an error; a tensor that the model never uses needs no gradient.
    """
    probed = own_part(_base_weight(subject.model, name))
    kept = probed.clone()
    try:
        probed.add_(STEP * (kept.abs().sum() / max(1, kept.numel()) + 1))
        with torch.no_grad():
            moved = _velocities(subject, probe)
    finally:
        probed.copy_(kept)
    return any(gap(m, v.detach()) > NOTICED for m, v in zip(moved, velocities, strict=True))


def _base_weight(model: LoadedModel, name: str) -> nn.Parameter:
    component, _, path = name.partition(".")
    denoiser = model.denoisers[component]
    if ".lora_" in path:
        path = path.partition(".lora_")[0] + ".base_layer.weight"
    return denoiser.get_parameter(path)


def _reaches_sampler(subject: Trainer, probe: Probe) -> Row:
    """Change all weights and sync: the engine's and the trainer's samples must change equally. Restore the weights and
    sync: the change must vanish.

    All weights are changed at once. If one of them did not reach the engine, the two samples would differ.
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
    change, remaining = _difference(moved, before), _difference(after, before)
    refused = _refused(subject, report, change, remaining)
    what = f"changing the weights changes samples by {change:.2g}"
    if refused is None and not apart_moved <= max(10 * apart, 1e-5 * change):
        where = f"they then differ from the trainer's by {apart_moved:.2g} ({apart:.2g} before)"
        return judge("weights", False, f"{what}, but {where}: some weights do not reach the engine")
    return refused or judge("weights", True, f"{len(report.landed)} reach the engine; {what}, as in the trainer")


def _stream_reaches_sampler(subject: Trainer, probe: Probe) -> Row:
    """As :func:`_reaches_sampler`, for a backend in another process: the weights are changed while they are sent."""
    engine, request = subject.engine, probe.requests[:1]
    form = engine.takes_weights
    if form == "none":
        what = "the engine samples with the backend's weights, but these are in another process"
        return judge("weights", False, what)
    before = _drawn(subject, request)
    try:
        report = engine.sync(subject.policy_version, _changed(subject.backend.weights("trained", form)))
        moved = _drawn(subject, request)
    finally:
        subject.sync()
    after = _drawn(subject, request)
    change, remaining = _difference(moved, before), _difference(after, before)
    good = f"{len(report.landed)} reach the engine; changing the weights changes samples by {change:.2g}"
    return _refused(subject, report, change, remaining) or judge("weights", True, good)


def _changed(weights: Weights) -> Weights:
    generator = torch.Generator().manual_seed(0)
    for name, value in weights:
        yield name, value + _step(value, generator)


def _refused(subject: Trainer, report: SyncReport, change: float, remaining: float) -> Row | None:
    """A failed row if the sync report is wrong or samples do not follow the weights; None if all is right.

    ``change`` is the change of the samples after the weights changed, ``remaining`` after they were restored.
    """
    missing = set(subject.backend.weight_names(subject.engine.takes_weights)) - report.landed.keys()
    what = f"changing the weights changes samples by {change:.2g}"
    if report.policy_version != subject.policy_version:
        wrong = f"the engine reports policy version {report.policy_version} after a sync to {subject.policy_version}"
        return judge("weights", False, wrong)
    if missing:
        return judge("weights", False, f"{len(missing)} weights do not reach the engine, e.g. {min(missing)}")
    if change == 0:
        return judge("weights", False, "changing the weights changes no sample: the engine samples with other weights")
    if not remaining <= 0.1 * change:  # engines may differ in the last bits; with "not <=", NaN fails too
        return judge("weights", False, f"{what}, but restoring them leaves a difference of {remaining:.2g}")
    return None


def _drawn(subject: Sampler, request: Sequence[Request]) -> Streams:
    """The engine's final latents of one request, per stream without a batch dimension."""
    (sample,) = sampled(subject.engine, request)
    assert sample.trajectory is not None
    return {n: stored["final"] for n, stored in sample.trajectory["latents"].items()}


def _trainers(subject: Sampler, request: Sequence[Request]) -> Streams:
    """As :func:`_drawn`, from core's loop with the trainer's weights."""
    _, state = own_loop(subject, request)
    return {n: x[0].cpu() for n, x in state.x.items()}


def _difference(a: Streams, b: Streams) -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in b)
