"""Rows about rewards, the sizes of an iteration, memory and time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from omni_rl.contracts.schema import Config
from omni_rl.contracts.types import Sample
from omni_rl.contracts.verdicts import Row
from omni_rl.errors import RewardError
from omni_rl.gate.probe import Probe, sampled
from omni_rl.gate.rows import judge
from omni_rl.gate.subject import Subject
from omni_rl.rewards.runner import RewardRunner, Scored, few_samples


def reward_row(subject: Subject, probe: Probe) -> Row:
    """Rewards must be finite, not all equal, and must not depend on the order of the batch.

    If all of the gate's samples have the same reward, the other samples of the iteration are drawn and scored too.
    """
    try:
        scores = _scores(subject.rewards, probe.samples)
        reversed_scores = _scores(subject.rewards, probe.samples[::-1])
        difference = max(abs(scores[k] - reversed_scores[k]) for k in scores)
        if len({*scores.values()}) == 1 and probe.spare:
            scores |= _scores(subject.rewards, sampled(subject.engine, probe.spare))
        _check_validation(subject, probe)
    except RewardError as error:
        return Row("rewards", "fail", str(error), error)
    values = list(scores.values())
    if difference > 1e-4 * (max(map(abs, values)) + 1):
        what = f"reversing the batch changes a reward by {difference:.2g}: it depends on the position in the batch"
        return judge("rewards", False, what)
    if max(values) == min(values):
        what = f"all {len(values)} samples have the reward {values[0]:.3g}: there is no signal to learn from"
        return judge("rewards", False, what)
    spread = f"{min(values):.3g} to {max(values):.3g} over {len(values)} samples"
    return judge("rewards", True, f"finite, {spread}, independent of the order")


def _scores(rewards: RewardRunner, samples: Sequence[Sample]) -> dict[int, float]:
    """The reward of each sample by ``sample_id``; groups are scored in the order of ``samples``.

    Raises:
        RewardError: a reward raised, or returned None for a sample. Training leaves such samples out, but before the
            first iteration the user should know.
    """
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.request.uid, []).append(sample)
    known = len(rewards.failures)
    for group in groups.values():
        rewards.submit(group)
    scored: list[Scored] = list(rewards.completed())
    if len(rewards.failures) > known:
        raise RewardError(rewards.failures[-1])
    values = {s.sample.request.sample_id: s.value for s in scored}
    missing = [s for s in scored if s.value is None]
    if missing:
        silent = [repr(label) for label, score in missing[0].components.items() if score is None]
        prompt = missing[0].sample.request.prompt
        raise RewardError(f"reward {', '.join(silent)} returned None for a sample of the prompt {prompt!r}")
    return {k: v for k, v in values.items() if v is not None}


def _check_validation(subject: Subject, probe: Probe) -> None:
    """Score groups as small as those of validation, with its rewards.

    Raises:
        RewardError: a reward fails, or returns None for a sample; names the key to change.
    """
    rewards, each = subject.validation_rewards, subject.config.validation.samples_per_prompt
    known = {id(spec.reward) for spec in subject.rewards.specs}
    if all(id(spec.reward) in known and spec.reward.scope == "sample" for spec in rewards.specs):
        return
    try:
        _scores(rewards, [s for s in probe.samples if _position(s, probe) < each])
    except RewardError as error:
        raise RewardError(f"validation: {error.what}", few_samples(rewards, each) or error.hint) from error


def _position(sample: Sample, probe: Probe) -> int:
    """The sample's number within its group, from 0."""
    group = [s.request.sample_id for s in probe.samples if s.request.uid == sample.request.uid]
    return group.index(sample.request.sample_id)


def geometry_row(config: Config) -> Row:
    """The numbers of samples and updates of one iteration."""
    rollout, train = config.rollout, config.train
    per_update = train.mini_batch_prompts or rollout.prompts
    updates = math.ceil(rollout.prompts / per_update) * train.inner_epochs
    samples = rollout.prompts * rollout.group_size
    return Row(
        "geometry",
        "info",
        f"{rollout.prompts} prompts x {rollout.group_size} = {samples} samples; {updates} updates of "
        f"{min(per_update, rollout.prompts) * rollout.group_size} samples in micro-batches of {train.micro_batch_size}",
    )


def cost_rows(subject: Subject, probe: Probe, seconds: float) -> Iterator[Row]:
    """Rows about the memory of the weights, and the sampling time per iteration, estimated from the gate's."""
    trained = sum(p.numel() for p in subject.backend.policy.parameters.values())
    total = sum(p.numel() for d in subject.model.denoisers.values() for p in d.parameters())
    memory = subject.memory or f"{_trained_mib(subject, trained):,.0f} MiB for weights, gradients and optimizer"
    yield Row("memory", "info", f"{trained:,} of {total:,} parameters train: {memory}{_peak(subject.model.device)}")
    samples = subject.config.rollout.prompts * subject.config.rollout.group_size
    each = seconds / len(probe.samples)
    yield Row("time", "info", f"{each:.2g} s per sample: at most {each * samples:.0f} s of sampling per iteration")


def _trained_mib(subject: Subject, trained: int) -> float:
    copies = 4 + len(subject.backend.policy.named)  # weights, gradient, two moments, named copies; fp32
    return trained * 4 * copies / 2**20


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    return f"; peak so far {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
