"""Rows that hold the trainer to what the rollout stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict

from omni_rl.denoise import noise_of
from omni_rl.gate.probe import Probe
from omni_rl.gate.rows import Row, judge

if TYPE_CHECKING:
    from omni_rl.run import Run

PERTURBATION = 1e-3


@dataclass(frozen=True)
class Floor:
    """How much log-probs differ between two batch compositions of the same engine: nothing smaller can be asked."""

    replay: float
    composition: float

    @property
    def limit(self) -> float:
        """A trainer-engine gap above this is not rounding."""
        return 10 * self.composition


def replay_rows(run: Run, probe: Probe) -> Iterator[Row]:
    """Log-probs replay, transitions are what they claim, a changed latent is noticed, no encoder runs."""
    if probe.batch["timesteps"].shape[1] == 0:
        yield Row("replay", "info", "this algorithm stores no log-probs")
        return
    before = dict(run.model.counts)
    floor = _measure(run, probe.batch)
    calls = {n: c - before[n] for n, c in run.model.counts.items() if c != before[n]}
    exact = run.model.dtype == torch.float32 and run.config.rollout.engine == "diffusers"
    good = floor.replay == 0 if exact else floor.replay <= max(floor.limit, 1e-6)
    yield judge(
        "replay",
        good,
        f"stored log-probs replay to {floor.replay:.2g}; other batches differ by {floor.composition:.2g}",
    )
    yield _clip(run, floor)
    yield _transition(run, probe)
    yield _sensitivity(run, probe.batch, floor)
    yield judge("encoders", not calls, "not called in replay" if not calls else f"called in replay: {calls}")


def _measure(run: Run, batch: TensorDict) -> Floor:
    together = _log_probs(run, batch)
    alone = torch.cat([_log_probs(run, batch[i : i + 1]) for i in range(len(batch))])
    stored = batch["log_probs"].to(together.device)
    return Floor(float((together - stored).abs().max()), float((together - alone).abs().max()))


def _log_probs(run: Run, batch: TensorDict) -> torch.Tensor:
    """(N, T) replayed in batches composed as the engine's, so that nothing but the policy can differ."""
    policy, steps = run.backend.policy, batch["timesteps"].shape[1]
    with torch.no_grad():
        parts = [
            torch.stack([policy.evaluate(part, step).log_prob for step in range(steps)], dim=1)
            for part in batch.split(run.config.rollout.batch_size)
        ]
    return torch.cat(parts)


def _clip(run: Run, floor: Floor) -> Row:
    clip = getattr(getattr(run.algorithm, "config", None), "clip_range", None)
    if clip is None:
        return Row("clip range", "info", "this algorithm does not clip")
    good = clip > floor.composition
    return judge(
        "clip range", good, f"{clip:g} {'lies above' if good else 'is lost in'} the noise floor {floor.composition:.2g}"
    )


def _transition(run: Run, probe: Probe) -> Row:
    """x' = mean + std * noise on stored data, with the noise redrawn from its key."""
    policy, batch = run.backend.policy, probe.batch
    with torch.no_grad():
        transitions = policy.evaluate(batch, 0).transitions
    gaps = []
    for name, step in transitions.items():
        stored = batch["latents", name, "all"][:, 1].to(step.mean.device)
        noise = noise_of(probe.requests, name, stored.shape[1:]).to(step.mean.device)
        gaps.append(float((step.sample(noise) - stored).abs().max()))
    tolerance = 1e-4 if run.model.dtype == torch.float32 else 2e-2
    return judge(
        "transition", max(gaps) <= tolerance, f"mean + std * noise gives the stored latents to {max(gaps):.2g}"
    )


def _sensitivity(run: Run, batch: TensorDict, floor: Floor) -> Row:
    """Stored latents moved away from the mean, where the density falls everywhere: random steps would cancel out."""
    policy, changed = run.backend.policy, batch.clone()
    with torch.no_grad():
        before = policy.evaluate(batch, 0)
        for name, stored in changed["latents"].items():
            outwards = (stored["all"][:, 1] - before.transitions[name].mean.cpu()).sign()
            stored["all"][:, 1] += PERTURBATION * outwards
        gap = float((policy.evaluate(changed, 0).log_prob - before.log_prob).abs().min())
    good = gap > floor.limit
    return judge("sensitivity", good, f"latents changed by {PERTURBATION:g} move the log-prob by {gap:.2g}")
