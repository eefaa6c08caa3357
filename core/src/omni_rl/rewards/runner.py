"""Scores samples as a stream: accepts groups as they are sampled, and yields samples as they are scored.

If a reward fails, does not answer in time, or returns something other than finite numbers, its samples have no value:
they are missing, and never get a number. If a reward changes what other parts of the run use, the run stops.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from omni_rl.contracts.media import Media, media_of
from omni_rl.contracts.reward import Reward, RewardBatch
from omni_rl.contracts.types import Sample
from omni_rl.errors import ConfigError, RewardError
from omni_rl.rewards.answers import Answer, in_range
from omni_rl.rewards.calls import Call, Calls
from omni_rl.rewards.process import OwnProcess
from omni_rl.rewards.protection import changed, checksums, read_only
from omni_rl.rewards.skipped import Skipped


@dataclass(frozen=True)
class RewardSpec:
    """One reward of a run.

    Attributes:
        label: its name in metrics, unique in the run; two entries may use the same reward with different labels.
        weight: factor in the weighted sum.
        batch_size: the maximum number of samples in one call. A ``group`` reward still gets a larger group in one call.
        reward: the reward itself.
        timeout_s: seconds after which a call is given up.
    """

    label: str
    weight: float
    batch_size: int
    reward: Reward
    timeout_s: float = 600.0


@dataclass(frozen=True)
class Scored:
    """A sample and its reward.

    Attributes:
        sample: the submitted sample.
        value: the weighted sum of the components; None when one of them is missing.
        components: label -> the value of that reward, in the order of the entries; None where it is missing.
    """

    sample: Sample
    value: float | None
    components: dict[str, float | None]


@dataclass(eq=False)
class _Waiting:
    """A sample, its media with their checksums, and the scores that it has so far by label."""

    sample: Sample
    media: dict[str, Media]
    sums: Mapping[str, int] = field(default_factory=dict)
    scores: dict[str, float | None] = field(default_factory=dict)


class _Lane:
    """Divides the samples of one reward into calls. The division depends on the order of submission, not on time."""

    def __init__(self, spec: RewardSpec) -> None:
        self.spec = spec
        self._waiting: list[_Waiting] = []

    def add(self, rows: Sequence[_Waiting]) -> Iterator[list[_Waiting]]:
        """Queue rows, and yield the calls that are full. Rows of one group stay together in a ``group`` reward."""
        for unit in self._units(rows):
            if len(self._waiting) + len(unit) > self.spec.batch_size:
                yield from self.rest()
            self._waiting += unit
            if len(self._waiting) >= self.spec.batch_size:
                yield from self.rest()

    def rest(self) -> Iterator[list[_Waiting]]:
        """Yield the last call, which is not full, if there is one."""
        call, self._waiting = self._waiting, []
        if call:
            yield call

    def _units(self, rows: Sequence[_Waiting]) -> list[list[_Waiting]]:
        if self.spec.reward.scope == "sample":
            return [[row] for row in rows]
        groups: dict[int, list[_Waiting]] = {}
        for row in rows:
            groups.setdefault(row.sample.request.uid, []).append(row)
        return list(groups.values())


class RewardRunner:
    """Scores samples in the background, and combines the rewards of each sample.

    A full call starts at once, the last one when ``completed`` is called. So the samples of a call are the same in
    every run, and a neural reward gives the same scores to the last bit.

    Args:
        entries: at least one reward.
        calls: the threads, if another runner has the same rewards.

    Attributes:
        failures: one sentence for every call that left samples without a score for another reason than None.
        skipped: counts the iterations or validations in which no sample had a score.

    Raises:
        ConfigError: there is no entry, or two entries have the same label.
    """

    def __init__(self, entries: Sequence[RewardSpec], calls: Calls | None = None) -> None:
        _check_labels([entry.label for entry in entries])
        self.failures: list[str] = []
        self.skipped = Skipped()
        self._refused: RewardError | None = None
        self._lanes = [_Lane(entry) for entry in entries]
        self._calls = calls or Calls()
        self._answers: SimpleQueue[tuple[str, list[_Waiting], Answer]] = SimpleQueue()
        self._ready: deque[Scored] = deque()
        self._open = 0  # rows that wait for a reward

    @property
    def specs(self) -> list[RewardSpec]:
        """The rewards, in the order of the entries."""
        return [lane.spec for lane in self._lanes]

    def submit(self, samples: Sequence[Sample]) -> None:
        """Queue whole groups, and return at once.

        A sample's ``trajectory`` contains its pixels and sound under ``media``. A sample without a trajectory is
        missing: no reward receives it.
        """
        drawn = [(s, s.trajectory["media"]) for s in samples if s.trajectory is not None]
        waiting = [_waiting(sample, media_of(dict(media.items()))) for sample, media in drawn]
        self._ready += [self._scored(_Waiting(s, {})) for s in samples if s.trajectory is None]
        self._open += len(waiting)
        for lane in self._lanes:
            for rows in lane.add(waiting):
                self._start(lane.spec, rows)

    def completed(self) -> Iterator[Scored]:
        """Yield every submitted sample exactly once, in any order; ends when all samples are scored.

        Raises:
            RewardError: a reward changed what other parts of the run use. If the caller continues, the samples of the
                call are missing.
        """
        while self._open or self._ready:
            if self._ready:
                yield self._ready.popleft()
            else:
                self._flush()
                self._settle(*self._answers.get())

    def close(self) -> None:
        """End the background threads and processes; waits a moment for a running call. Idempotent."""
        for lane in self._lanes:
            if isinstance(lane.spec.reward, OwnProcess):
                lane.spec.reward.stop()
        self._calls.close()

    def _flush(self) -> None:
        for lane in self._lanes:
            for rows in lane.rest():
                self._start(lane.spec, rows)

    def _start(self, spec: RewardSpec, rows: list[_Waiting]) -> None:
        prompts = tuple(row.sample.request.prompt for row in rows)
        media, sums = [row.media for row in rows], [row.sums for row in rows]
        fresh, changes = partial(_batch, rows), partial(changed, media, sums)
        call = Call(spec.label, spec.reward, prompts, fresh, spec.timeout_s, changes)
        self._calls.start(call, lambda answer: self._answers.put((spec.label, rows, answer)))

    def _settle(self, label: str, rows: list[_Waiting], answer: Answer) -> None:
        self.failures += answer.reasons
        for row, score in zip(rows, answer.scores, strict=True):
            row.scores[label] = score
            if len(row.scores) == len(self._lanes):
                self._open -= 1
                self._ready.append(self._scored(row))
        if answer.refused:
            self._refused = self._refused or answer.refused  # pixels that one reward changed spoil the next one's call
            raise self._refused

    def _scored(self, row: _Waiting) -> Scored:
        components = {lane.spec.label: row.scores.get(lane.spec.label) for lane in self._lanes}
        terms = [lane.spec.weight * score for lane in self._lanes if (score := components[lane.spec.label]) is not None]
        value = sum(terms) if len(terms) == len(components) else None
        if value is not None and not in_range(value):
            self.failures.append(f"the weighted sum of the rewards is {value:g}, too large for fp32: lower the weights")
            value = None
        return Scored(row.sample, value, components)


def _batch(rows: Sequence[_Waiting]) -> RewardBatch:
    """The batch of one call; only the pixels are shared with other calls."""
    requests = [row.sample.request for row in rows]
    return RewardBatch(
        media=[dict(row.media) for row in rows],
        prompts=[request.prompt for request in requests],
        metadata=[copy.deepcopy(dict(request.metadata)) for request in requests],
        uids=[request.uid for request in requests],
    )


def few_samples(rewards: RewardRunner, each: int) -> str:
    """The advice for group rewards that cannot score validation's groups of ``each`` samples; empty for others."""
    labels = [spec.label for spec in rewards.specs if spec.reward.scope == "group"]
    if not labels:
        return ""
    return (
        f"The validation draws {each} sample(s) per prompt, which the group reward {', '.join(map(repr, labels))} may "
        f"not be able to compare: set validation.samples_per_prompt to {max(2, 2 * each)} or more."
    )


def _waiting(sample: Sample, media: dict[str, Media]) -> _Waiting:
    return _Waiting(sample, read_only(media), checksums(media))


def _check_labels(labels: Sequence[str]) -> None:
    if not labels:
        raise ConfigError("the run has no reward.", "Add one under `reward:`, for example `name: brightness`.")
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise ConfigError(f"two rewards have the label {twice!r}.", "Set another `label:` for one of them.")
