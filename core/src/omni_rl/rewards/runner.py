"""Scores samples as a stream: accepts groups as they are sampled, and yields samples as they are scored.

If a reward raises, its samples have no value: they are missing, and never get a number. If a reward returns something
other than a list of N finite numbers, it breaks its contract, and the run ends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from omni_rl.contracts.media import Media, media_of
from omni_rl.contracts.requests import Request
from omni_rl.contracts.reward import Reward, RewardBatch
from omni_rl.contracts.types import Sample
from omni_rl.errors import ConfigError, RewardError
from omni_rl.plugins.blame import describe_failure
from omni_rl.rewards.calls import Calls, Raised


@dataclass(frozen=True)
class RewardSpec:
    """One reward of a run.

    Attributes:
        label: its name in metrics, unique in the run; two entries may use the same reward with different labels.
        weight: factor in the weighted sum.
        batch_size: the maximum number of samples in one call. A ``group`` reward still gets a larger group in one call.
        reward: the reward itself.
    """

    label: str
    weight: float
    batch_size: int
    reward: Reward


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
    """A sample, and the scores that it has so far by label."""

    sample: Sample
    media: dict[str, Media]
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

    Raises:
        ConfigError: there is no entry, or two entries have the same label.
    """

    def __init__(self, entries: Sequence[RewardSpec]) -> None:
        _check_labels([entry.label for entry in entries])
        self.failures: list[str] = []
        self._lanes = [_Lane(entry) for entry in entries]
        self._calls = Calls()
        self._answers: SimpleQueue[tuple[str, list[_Waiting], Any]] = SimpleQueue()
        self._ready: deque[Scored] = deque()
        self._open = 0  # rows that wait for a reward

    def submit(self, samples: Sequence[Sample]) -> None:
        """Queue whole groups, and return at once.

        A sample's ``trajectory`` contains its pixels and sound under ``media``. A sample without a trajectory is
        missing: no reward receives it.
        """
        drawn = [(s, s.trajectory["media"]) for s in samples if s.trajectory is not None]
        waiting = [_Waiting(sample, media_of(dict(media.items()))) for sample, media in drawn]
        self._ready += [self._scored(_Waiting(s, {})) for s in samples if s.trajectory is None]
        self._open += len(waiting)
        for lane in self._lanes:
            for rows in lane.add(waiting):
                self._start(lane.spec, rows)

    def completed(self) -> Iterator[Scored]:
        """Yield every submitted sample exactly once, in any order; ends when all samples are scored.

        Raises:
            RewardError: a reward broke its contract. If the caller continues, its samples are missing.
        """
        while self._open or self._ready:
            if self._ready:
                yield self._ready.popleft()
            else:
                self._flush()
                self._settle(*self._answers.get())

    def close(self) -> None:
        """End the background threads; waits for a running call of a plain reward. A second call does nothing."""
        self._calls.close()

    def _flush(self) -> None:
        for lane in self._lanes:
            for rows in lane.rest():
                self._start(lane.spec, rows)

    def _start(self, spec: RewardSpec, rows: list[_Waiting]) -> None:
        requests = [row.sample.request for row in rows]
        batch = RewardBatch(
            media=[row.media for row in rows],
            prompts=[request.prompt for request in requests],
            metadata=[request.metadata for request in requests],
            uids=[request.uid for request in requests],
        )
        self._calls.start(spec.reward, batch, lambda answer: self._answers.put((spec.label, rows, answer)))

    def _settle(self, label: str, rows: list[_Waiting], answer: Any) -> None:
        scores: list[float | None] = [None] * len(rows)
        broken = None
        if isinstance(answer, Raised):
            self.failures.append(describe_failure(label, answer.error))
        else:
            try:
                scores = checked_scores(label, answer, [row.sample.request for row in rows])
            except RewardError as error:
                broken = error
        for row, score in zip(rows, scores, strict=True):
            row.scores[label] = score
            if len(row.scores) == len(self._lanes):
                self._open -= 1
                self._ready.append(self._scored(row))
        if broken:
            raise broken

    def _scored(self, row: _Waiting) -> Scored:
        components = {lane.spec.label: row.scores.get(lane.spec.label) for lane in self._lanes}
        terms = [lane.spec.weight * score for lane in self._lanes if (score := components[lane.spec.label]) is not None]
        return Scored(row.sample, sum(terms) if len(terms) == len(components) else None, components)


def checked_scores(label: str, answer: Any, requests: Sequence[Request]) -> list[float | None]:
    """A reward's answer as floats and None, one per request. A one-dimensional array or tensor is accepted as a list.

    Raises:
        RewardError: the answer is not a list, has the wrong length, or an entry is not a finite number; gives a prompt.
    """
    listed = answer.tolist() if isinstance(answer, (np.ndarray, torch.Tensor)) else answer
    first = f"(first prompt: {_short(requests[0].prompt)})"
    if not isinstance(listed, Sequence) or isinstance(listed, (str, bytes)):
        raise RewardError(
            f"reward {label!r} returned {_short(answer)} ({type(answer).__name__}) for {len(requests)} samples {first}",
            "Return a list with one number per sample of the batch, None for a sample that cannot be scored.",
        )
    if len(listed) != len(requests):
        raise RewardError(
            f"reward {label!r} returned {len(listed)} scores for {len(requests)} samples {first}",
            "Return one number per sample of the batch, in order; None for a sample that cannot be scored.",
        )
    return [_number(label, score, request) for score, request in zip(listed, requests, strict=True)]


def _number(label: str, score: Any, request: Request) -> float | None:
    if score is None:
        return None
    if isinstance(score, Real) and math.isfinite(score):
        return float(score)
    raise RewardError(
        f"reward {label!r} returned {_short(score)}, which is not a finite number, for the prompt "
        f"{_short(request.prompt)} (sample {request.sample_id}).",
        "Return a number (x.item() of a tensor), or None for a sample that cannot be scored.",
    )


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:120]}..."


def _check_labels(labels: Sequence[str]) -> None:
    if not labels:
        raise ConfigError("the run has no reward.", "Add one under `reward:`, for example `name: brightness`.")
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise ConfigError(f"two rewards have the label {twice!r}.", "Set another `label:` for one of them.")
