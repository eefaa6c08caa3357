"""Rows that prove that training moves what samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from omni_rl.gate.probe import Probe, noise_off
from omni_rl.gate.rows import Row, judge
from omni_rl.types import Streams

if TYPE_CHECKING:
    from omni_rl.run import Run

STEP = 0.02


def weight_rows(run: Run, probe: Probe) -> Iterator[Row]:
    """Every trainable weight gets a gradient, nothing else does, and the sampler sees a change of the weights."""
    yield _modes(run)
    with _moved(run):  # adapters start at zero, where half of them have no gradient
        yield _gradient(run, probe)
    yield _reaches_sampler(run, probe)


def _modes(run: Run) -> Row:
    training = [n for n, m in run.model.modules.items() if m.training]
    return judge(
        "mode", not training, "rollout and replay in eval mode" if not training else f"in train mode: {training}"
    )


@contextmanager
def _moved(run: Run) -> Iterator[None]:
    """Every trainable weight off its present value, by a fixed random step; restored bit for bit."""
    parameters = run.model.parameters()
    kept = {n: p.data for n, p in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters.values():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.data = parameter.data + STEP * noise
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]


def _gradient(run: Run, probe: Probe) -> Row:
    x, t, conditioning, call = _point(run, probe)
    everything = [p for d in run.model.denoisers.values() for p in d.parameters()]
    velocity = run.backend.policy.predict(x, t, conditioning, call)
    torch.stack([v.square().sum() for v in velocity.values()]).sum().backward()
    parameters = run.model.parameters()
    silent = [n for n, p in parameters.items() if p.grad is None or not bool(p.grad.any())]
    stray = sum(p.grad is not None and not p.requires_grad for p in everything)
    for parameter in everything:
        parameter.grad = None
    broken = [n for n in silent if _matters(run, n, x, t, conditioning, call, velocity)]
    reached = f"reaches {len(parameters) - len(silent)} of {len(parameters)} trained tensors"
    if broken or stray:
        what = f"{len(broken)} that matter get none, e.g. {broken[0]}" if broken else f"{stray} frozen tensors get one"
        return judge("gradient", False, f"{reached}; {what}")
    return judge("gradient", True, reached + (f"; the model does not use the other {len(silent)}" if silent else ""))


def _point(run: Run, probe: Probe) -> tuple[Streams, torch.Tensor, Streams, dict[str, object]]:
    """x, t and conditioning of the probe's first two rows, as the policy is called in training."""
    start, _, conditioning = noise_off(run, probe.requests[:1])
    t = torch.full((1,), 500.0, device=run.model.device)
    return start, t, conditioning, dict(probe.requests[0].call)


def _matters(
    run: Run, name: str, x: Streams, t: torch.Tensor, conditioning: Streams, call: dict[str, object], velocity: Streams
) -> bool:
    """Whether the velocity depends on this tensor, or on the weight that an adapter stands beside: then its missing
    gradient is a fault. A tensor that the model itself never uses may go without.
    """
    probed = _beside(run, name)
    kept = probed.data
    probed.data = kept + STEP * (kept.abs().mean() + 1)
    with torch.no_grad():
        moved = run.backend.policy.predict(x, t, conditioning, call)
    probed.data = kept
    return any(not torch.equal(moved[n], velocity[n].detach()) for n in moved)


def _beside(run: Run, name: str) -> nn.Parameter:
    component, _, path = name.partition(".")
    denoiser = run.model.denoisers[component]
    if ".lora_" in path:
        path = path.partition(".lora_")[0] + ".base_layer.weight"
    return denoiser.get_parameter(path)


def _reaches_sampler(run: Run, probe: Probe) -> Row:
    """The engine's samples change with the weights and come back with them; every weight has a receipt."""
    before = _final(run, probe.requests[:1])
    with _moved(run):
        report = run.engine.sync(run.policy_version)
        moved = _final(run, probe.requests[:1])
    run.engine.sync(run.policy_version)
    after = _final(run, probe.requests[:1])
    missing = run.model.parameters().keys() - report.landed.keys()
    if missing:
        return judge("weights", False, f"{len(missing)} weights do not reach the sampler, e.g. {min(missing)}")
    change = max(float((moved[n] - before[n]).abs().max()) for n in before)
    back = all(torch.equal(after[n], before[n]) for n in before)
    good = change > 0 and back
    what = f"changing them changes samples by {change:.2g}"
    return judge(
        "weights",
        good,
        f"{len(report.landed)} reach the sampler; {what}" if good else f"{what}, changing them back: {back}",
    )


def _final(run: Run, requests: Sequence[object]) -> Streams:
    run.engine.submit(requests)  # type: ignore[arg-type]
    (sample,) = run.engine.completed()
    assert sample.trajectory is not None
    return {n: stored["final"] for n, stored in sample.trajectory["latents"].items()}
