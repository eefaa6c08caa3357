"""Checks that the trainer's replay gives what the rollout stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from tensordict import TensorDict

from omni_rl.contracts import trajectory
from omni_rl.contracts.verdicts import Row
from omni_rl.gate.probe import Probe
from omni_rl.gate.rounding import rounds_otherwise, with_nudged_text
from omni_rl.gate.rows import judge
from omni_rl.gate.subject import Trainer
from omni_rl.sampling.denoise import noise_of
from omni_rl.schedulers.transition import has_density

PERTURBATION = 1e-3
ITERATIONS = 100
"""How many iterations' windows are looked at."""
NEIGHBOURS = {torch.float32: 1e-4, torch.bfloat16: 1e-1}
"""If a log-prob changes by more than this with the other rows of the batch, the model mixes rows: it is no rounding."""

_LAST_DIGITS = 4 * torch.finfo(torch.float32).eps
"""Of a log-prob, which is a mean over elements and therefore near 1."""


@dataclass(frozen=True)
class Gaps:
    """Largest differences of log-probs.

    Attributes:
        replay: stored by the rollout - replayed, in batches like the engine's.
        training: stored by the rollout - replayed as in training: in a micro-batch, with gradients.
        composition: replayed in batches like the engine's - replayed one by one.
        rounding: replayed - replayed with nudged text embeddings (:mod:`omni_rl.gate.rounding`); 0 if not measured.
    """

    replay: float
    training: float
    composition: float
    rounding: float

    @property
    def floor(self) -> float:
        """The difference that rounding alone makes; no check can require less."""
        return max(self.composition, self.rounding)

    @property
    def limit(self) -> float:
        """A larger difference is not rounding."""
        return 10 * self.floor


def replay_rows(subject: Trainer, probe: Probe) -> Iterator[Row]:
    """Rows about replayed log-probs, the clip range, the transition, sensitivity to latents, and encoder calls."""
    if probe.batch["timesteps"].shape[1] == 0:
        yield Row("replay", "info", "this algorithm stores no log-probs")
        return
    before = dict(subject.model.counts)
    gaps = _measure(subject, probe.batch)
    calls = {n: c - before[n] for n, c in subject.model.counts.items() if c != before[n]}
    yield _replay(subject, probe, gaps)
    yield _clip(subject.clip_range, gaps)
    yield _windows(subject, probe)
    yield _transition(subject, probe)
    yield _sensitivity(subject, probe.batch, gaps)
    yield judge("encoders", not calls, "not called in replay" if not calls else f"called in replay: {calls}")


def _measure(subject: Trainer, batch: TensorDict) -> Gaps:
    train = batch[: subject.config.train.micro_batch_size]
    together = torch.cat(
        [_log_probs(subject, part) for part in batch.split(subject.config.rollout.batch_size)]
    )  # (N, T)
    ends = [0, len(batch) - 1]
    alone = torch.cat([_log_probs(subject, batch[i : i + 1]) for i in ends])
    training = subject.backend.policy.evaluate(train, [0])[0].log_prob.detach()  # (M,)
    other = _log_probs(subject, with_nudged_text(train, subject.model.dtype)) if rounds_otherwise(subject) else None
    stored = batch["log_probs"].to(together.device)
    return Gaps(
        replay=_largest(together - stored),
        training=_largest(training - stored[: len(train), 0]),
        composition=_largest(together[ends] - alone),
        rounding=0.0 if other is None else _largest(other - _log_probs(subject, train)),
    )


def difference_from_stored(subject: Trainer, batch: TensorDict) -> float:
    """The largest difference of stored log-probs and those that the trainer replays with all rows in one batch."""
    replayed = _log_probs(subject, batch)  # (B, T)
    return _largest(replayed - batch["log_probs"].to(replayed.device))


def _log_probs(subject: Trainer, batch: TensorDict) -> torch.Tensor:
    """Replayed log-probs (B, T), all rows in one batch."""
    with torch.no_grad():
        steps = range(batch["timesteps"].shape[1])
        replayed = [subject.backend.policy.evaluate(batch, [step])[0] for step in steps]
        return torch.stack([each.log_prob for each in replayed], dim=1)


def _largest(difference: torch.Tensor) -> float:
    """The largest absolute value; NaN counts as infinite, because comparisons with NaN are always False."""
    return float(difference.abs().nan_to_num(nan=torch.inf).max())


def _replay(subject: Trainer, probe: Probe, gaps: Gaps) -> Row:
    """Requires replay to the last digits if the engine samples with the trainer's weights in fp32 and all samples have
    one window; otherwise a difference of at most ten floors. With several windows, a batch is sampled at one timestep
    but replayed at several, which may round differently. Not to the bit: kernels of a CPU may add in another order when
    a tensor lies elsewhere in memory.
    """
    one_window = len({r.window for r in probe.requests}) == 1
    exact = subject.model.dtype == torch.float32 and subject.engine.takes_weights == "none" and one_window
    rounding = max(gaps.limit, 1e-6)
    good = gaps.replay <= (_LAST_DIGITS if exact else rounding) and gaps.training <= rounding
    if not gaps.composition <= NEIGHBOURS[subject.model.dtype]:
        what = f"the log-prob of a sample changes by {gaps.composition:.2g} with the other samples in its batch"
        return judge("replay", False, what)
    what = f"replayed log-probs differ from stored ones by {gaps.replay:.2g}, in micro-batches by {gaps.training:.2g}"
    rounded = f", with text rounded differently by {gaps.rounding:.2g}" if gaps.rounding else ""
    detail = f"{what}; in batches of one sample they change by {gaps.composition:.2g}{rounded}"
    return replace(judge("replay", good, detail), limit=rounding)


def _clip(clip_range: tuple[float, float] | None, gaps: Gaps) -> Row:
    if clip_range is None:
        return Row("clip range", "info", "this algorithm does not clip")
    clip = min(clip_range)
    floor = max(gaps.composition, gaps.training, torch.finfo(torch.float32).eps)  # ratios are fp32 numbers near 1
    return judge(
        "clip range", clip > floor, f"{clip:g} is {'above' if clip > floor else 'not above'} the floor {floor:.2g}"
    )


def _windows(subject: Trainer, probe: Probe) -> Row:
    """Every window of the coming iterations has a step with noise: others have no density to learn from."""
    config, sde = subject.config, subject.config.rollout.sde
    sigmas = probe.batch["schedule"]["sigmas"][0]  # (steps + 1,)
    dense = has_density(sigmas[1:], sde.noise_level, sde.type).tolist()
    still = [step for step, has_noise in enumerate(dense) if not has_noise]
    for iteration in range(min(config.train.iterations, ITERATIONS)):
        for group in range(config.rollout.prompts):
            window = subject.hooks.sde_window(iteration=iteration, group=group, steps=len(dense), seed=config.run_seed)
            if not any(dense[window.start : window.stop]):
                where = f"the SDE window [{window.start}, {window.stop}) of iteration {iteration + 1}"
                return judge("windows", False, f"{where} has no step with noise, so nothing is learnt from it")
    without = f"; steps without noise, which do not count: {still}" if still else ""
    return judge("windows", True, f"each has a step with noise{without}")


def _transition(subject: Trainer, probe: Probe) -> Row:
    """Checks x' = mean + std * noise for stored latents, with the noise drawn again from its key."""
    policy, batch = subject.backend.policy, probe.batch
    with torch.no_grad():
        transitions = policy.evaluate(batch, [0])[0].transitions
    masks, differences = trajectory.masks_of(batch), []
    for name, step in transitions.items():
        stored = batch["latents", name, "all"][:, 1].to(step.mean.device)
        noise = noise_of(probe.requests, name, stored.shape[1:]).to(step.mean.device)
        difference = step.sample(noise) - stored
        differences.append(_largest(difference if name not in masks else difference * masks[name].to(difference)))
    tolerance = 1e-4 if subject.model.dtype == torch.float32 else 2e-2
    worst = max(differences)
    return judge("transition", worst <= tolerance, f"mean + std * noise differs from the stored latents by {worst:.2g}")


def _sensitivity(subject: Trainer, batch: TensorDict, gaps: Gaps) -> Row:
    """Moves stored latents away from the mean, which lowers the log-prob; random changes would cancel out."""
    policy, changed = subject.backend.policy, batch.clone()
    with torch.no_grad():
        (before,) = policy.evaluate(batch, [0])
        for name, stored in changed["latents"].items():
            outwards = (stored["all"][:, 1] - before.transitions[name].mean.cpu()).sign()
            stored["all"][:, 1] += PERTURBATION * outwards
        moved = float((policy.evaluate(changed, [0])[0].log_prob - before.log_prob).abs().min())
    least = 10 * gaps.composition  # both log-probs come from the trainer, so only the batch composition matters
    detail = f"changing the latents by {PERTURBATION:g} changes the log-prob by {moved:.2g}"
    good = moved > least
    return judge("sensitivity", good, detail + ("" if good else f", not more than rounding ({least:.2g})"))
