"""Whether each sample of an engine has its own latents and its own media, and not those of another sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from omni_rl.contracts import trajectory
from omni_rl.contracts.media import RATE, quantise
from omni_rl.contracts.requests import Request
from omni_rl.contracts.types import Sample, Tensors
from omni_rl.contracts.verdicts import Row
from omni_rl.gate.probe import Probe, own_loop
from omni_rl.gate.rows import judge
from omni_rl.gate.subject import Sampler, Subject, Trainer
from omni_rl.sampling.denoise import noise_of

LEVELS = {torch.float32: 1.0, torch.bfloat16: 6.0}
"""Most that stored media may differ on average from the decoded final latents, in levels of 0 to 255."""

PEAK = 8.0
"""Most that one value may differ, in levels; only in fp32, and only if the engine decodes with the run's own hook."""

ALIKE = 0.5
"""Correlation above which the noise in stored latents is the noise of a request; noise of other requests has 0."""


def pairing_rows(subject: Subject, probe: Probe) -> Iterator[Row]:
    """Rows about latents that belong to another sample's request, and media that are not the final latents decoded."""
    fault = latents_fault(subject, probe, resample=subject.diffuse_reason is None)
    yield judge("pairing", fault is None, fault or "every sample has the latents of its own request")
    if "post_decode" in subject.overridden:
        yield Row("media", "info", "not compared with the final latents: a plugin of this run replaces post_decode")
        return
    fault = media_fault(subject, probe.samples)
    yield judge("media", fault is None, fault or "the media of every sample are its own final latents, decoded")


# ------------------------------------------------------------------------------------------------------------- latents


def latents_fault(subject: Trainer, probe: Probe, resample: bool = True) -> str | None:
    """A sentence if a sample has the latents of another one; None if all samples have their own.

    Stored steps contain noise that the request's key names. Without stored steps, the requests are sampled again with
    core's loop, unless ``resample`` is False.
    """
    if probe.batch["timesteps"].shape[1]:
        near = _noise_likeness(subject, probe)
        found = [(i, int(row.argmax())) for i, row in enumerate(near) if row[i] < ALIKE < row.max()]
    elif resample:
        far = _final_distances(subject, probe)
        found = [(i, int(row.argmin())) for i, row in enumerate(far) if row.min() < row[i] / 2]
    else:
        found = []
    return _swapped("trajectory", found, probe.requests)


def _noise_likeness(subject: Trainer, probe: Probe) -> torch.Tensor:
    """(N, N): how much the noise in the first stored step of sample i correlates with the noise that request j names.

    A step without noise (std 0) says nothing, so each sample then counts as its own.
    """
    with torch.no_grad():
        steps = subject.backend.policy.evaluate(probe.batch, [0])[0].transitions
    name, step = next(iter(steps.items()))
    if not bool((step.std > 0).all()):
        return torch.eye(len(probe.requests))
    following = probe.batch["latents", name, "all"][:, 1]
    inside = ((following.to(step.mean.device) - step.mean) / step.std).cpu()
    mask = trajectory.masks_of(probe.batch).get(name, torch.ones(1, dtype=torch.bool)).to(inside)
    named = noise_of(probe.requests, name, following.shape[1:])
    likeness: torch.Tensor = _normed(inside * mask) @ _normed(named * mask).T
    return likeness


def _normed(rows: torch.Tensor) -> torch.Tensor:
    flat: torch.Tensor = rows.flatten(1)
    unit: torch.Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return unit


def _final_distances(subject: Trainer, probe: Probe) -> torch.Tensor:
    """(N, N): mean distance of the final latents of sample i from those that core's loop draws for request j."""
    size = subject.config.rollout.batch_size
    parts = [probe.requests[i : i + size] for i in range(0, len(probe.requests), size)]
    drawn = [own_loop(subject, part)[1].x for part in parts]
    own = [torch.cat([x[name].cpu().flatten(1) for x in drawn]) for name in drawn[0]]
    stored = [probe.batch["latents", name, "final"].flatten(1) for name in drawn[0]]
    ours, theirs = torch.cat(own, dim=1), torch.cat(stored, dim=1)
    return torch.stack([(row - ours).abs().mean(dim=1) for row in theirs])


# --------------------------------------------------------------------------------------------------------------- media


def media_fault(subject: Sampler, samples: Sequence[Sample]) -> str | None:
    """A sentence if the media of a sample are not its final latents, decoded; None if all are."""
    decoded = [decoded_media(subject, sample) for sample in samples]
    stored = [_media(sample) for sample in samples]
    for sample, kept, own in zip(samples, stored, decoded, strict=True):
        if kept.keys() != own.keys():
            what = f"sample {sample.request.sample_id} has {_listed(kept)}, but its latents decode to {_listed(own)}"
            return f"{what}: the engine must store what decode_latents returns"
    for kind in decoded[0]:
        fault = _kind_fault(subject, kind, samples, [s[kind] for s in stored], [d[kind] for d in decoded])
        if fault is not None:
            return fault
    return None


def decoded_media(subject: Sampler, sample: Sample) -> Tensors:
    """The final latents of one sample, decoded with the run's hooks and quantised: media without batch dimension."""
    batch = trajectory.collate([sample])
    device = subject.model.device
    latents = {name: kept["final"].to(device) for name, kept in batch["latents"].items()}
    conditioning = {name: value.to(device) for name, value in trajectory.conditioning_of(batch).items()}
    with torch.no_grad():
        found = subject.hooks.decode_latents(
            model=subject.model, latents=latents, conditioning=conditioning, call=sample.request.call
        )
    return {kind: quantise(kind, value)[0] for kind, value in found.items() if not kind.endswith(RATE)}


def _media(sample: Sample) -> Tensors:
    assert sample.trajectory is not None, sample.error
    found = sample.trajectory.get("media", None)
    return {} if found is None else {k: v for k, v in dict(found.items()).items() if not k.endswith(RATE)}


def _kind_fault(
    subject: Sampler, kind: str, samples: Sequence[Sample], stored: list[torch.Tensor], own: list[torch.Tensor]
) -> str | None:
    """The first sample whose stored media are another sample's, or nobody's."""
    limit = LEVELS[subject.model.dtype]
    far = torch.tensor([[_distance(a, b) for b in own] for a in stored])  # (N, N), in levels
    swapped = []
    for i, row in enumerate(far):
        if row[i] > limit / 10 and row.min() < min(limit, row[i] / 2):
            swapped.append((i, int(row.argmin())))
    if swapped:
        return _swapped(kind, swapped, [sample.request for sample in samples])
    exact = subject.model.dtype == torch.float32 and "decode_latents" not in subject.engine.supplies
    for i, sample in enumerate(samples):
        peak = _peak(stored[i], own[i]) if exact else 0.0
        if far[i, i] > limit or peak > PEAK:
            what = f"the {kind} of sample {sample.request.sample_id} differs from its final latents, decoded with the"
            by = f"by {far[i, i]:.2g} of 255 levels on average (at most {limit:g} is allowed)"
            worst = f", in one value by {peak:.3g} (at most {PEAK:g})" if exact else ""
            return f"{what} run's decode_latents, {by}{worst}"
    return None


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean absolute difference in levels of 0 to 255; infinite if the shapes differ."""
    return float(_difference(a, b).mean()) if a.shape == b.shape else float("inf")


def _peak(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(_difference(a, b).max()) if a.shape == b.shape else float("inf")


def _difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    scale = 127.5 if a.is_floating_point() else 1.0  # audio is in [-1, 1]
    return (a.float() - b.float()).abs() * scale


# ----------------------------------------------------------------------------------------------------------- sentences


def _swapped(what: str, found: Sequence[tuple[int, int]], requests: Sequence[Request]) -> str | None:
    if not found:
        return None
    i, j = (requests[place].sample_id for place in found[0])
    more = f" ({len(found)} of {len(requests)} samples have another one's)" if len(found) > 1 else ""
    return f"the engine gave sample {i} the {what} of sample {j}{more}: rewards would go to the wrong samples"


def _listed(media: Tensors) -> str:
    return ", ".join(sorted(media)) or "no media"
