"""Rewards as a stream: groups go in as they are sampled, scored samples come out as they are finished.

A reward that raises leaves its samples without a value (missing, never a number). A reward that answers something
that is not a list of N finite numbers breaks its contract, which ends the run.
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
from omni_rl.rewards.calls import Calls, Raised
from omni_rl.rewards.failures import describe_failure

__all__ = ["RewardRunner", "RewardSpec", "Scored", "describe_failure"]


@dataclass(frozen=True)
class RewardSpec:
    """One reward of a run.

    Attributes:
        label: its name in metrics, unique in the run; two entries may hold the same reward under two labels.
        weight: factor in the weighted sum.
        batch_size: most samples in one call; a larger group still goes into one call of a ``group`` reward.
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
        sample: as it was submitted.
        value: the weighted sum of the components, None when one of them is missing.
        components: every reward's own value by label, in the order of the entries; None where it is missing.
    """

    sample: Sample
    value: float | None
    components: dict[str, float | None]


@dataclass(eq=False)
class _Row:
    sample: Sample
    media: dict[str, Media]
    scores: dict[str, float | None] = field(default_factory=dict)


class _Lane:
    """Cuts the stream of one reward into calls. What shares a call follows from the order of submission, not timing."""

    def __init__(self, spec: RewardSpec) -> None:
        self.spec = spec
        self._waiting: list[_Row] = []

    def add(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Queue rows; yields the calls that are full now. Rows that must stay together never part."""
        for unit in self._units(rows):
            if len(self._waiting) + len(unit) > self.spec.batch_size:
                yield from self.rest()
            self._waiting += unit
            if len(self._waiting) >= self.spec.batch_size:
                yield from self.rest()

    def rest(self) -> Iterator[list[_Row]]:
        """The call that is not full, if there is one."""
        call, self._waiting = self._waiting, []
        if call:
            yield call

    def _units(self, rows: Sequence[_Row]) -> list[list[_Row]]:
        if self.spec.reward.scope == "sample":
            return [[row] for row in rows]
        groups: dict[int, list[_Row]] = {}
        for row in rows:
            groups.setdefault(row.sample.request.uid, []).append(row)
        return list(groups.values())


class RewardRunner:
    """Scores samples in the background and combines the rewards of each.

    Full calls start as soon as they are submitted, the rest when ``completed`` is asked for; so the composition of a
    call, and with it the last bit of a neural reward, is the same in every run.

    Args:
        entries: at least one reward.

    Raises:
        ConfigError: no entry, or two of one label.
    """

    def __init__(self, entries: Sequence[RewardSpec]) -> None:
        _check_labels([entry.label for entry in entries])
        self.failures: list[str] = []
        self._lanes = [_Lane(entry) for entry in entries]
        self._calls = Calls()
        self._answers: SimpleQueue[tuple[str, list[_Row], Any]] = SimpleQueue()
        self._ready: deque[Scored] = deque()
        self._open = 0  # rows that wait for a reward

    def submit(self, samples: Sequence[Sample]) -> None:
        """Queue whole groups; returns at once.

        A sample's ``trajectory`` holds its pixels and sound under ``media``. A sample without a trajectory is missing:
        no reward sees it.
        """
        drawn = [_Row(s, media_of(dict(s.trajectory["media"].items()))) for s in samples if s.trajectory is not None]
        self._ready += [self._scored(_Row(s, {})) for s in samples if s.trajectory is None]
        self._open += len(drawn)
        for lane in self._lanes:
            for rows in lane.add(drawn):
                self._start(lane.spec, rows)

    def completed(self) -> Iterator[Scored]:
        """Every submitted sample exactly once, in any order; ends when none is outstanding.

        Raises:
            RewardError: a reward broke its contract. Its samples count as missing if the caller goes on.
        """
        while self._open or self._ready:
            if self._ready:
                yield self._ready.popleft()
            else:
                self._flush()
                self._settle(*self._answers.get())

    def close(self) -> None:
        """End the background threads; waits for a plain reward that is being called. Idempotent."""
        self._calls.close()

    def _flush(self) -> None:
        for lane in self._lanes:
            for rows in lane.rest():
                self._start(lane.spec, rows)

    def _start(self, spec: RewardSpec, rows: list[_Row]) -> None:
        requests = [row.sample.request for row in rows]
        batch = RewardBatch(
            media=[row.media for row in rows],
            prompts=[request.prompt for request in requests],
            metadata=[request.metadata for request in requests],
            uids=[request.uid for request in requests],
        )
        self._calls.start(spec.reward, batch, lambda answer: self._answers.put((spec.label, rows, answer)))

    def _settle(self, label: str, rows: list[_Row], answer: Any) -> None:
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

    def _scored(self, row: _Row) -> Scored:
        components = {lane.spec.label: row.scores.get(lane.spec.label) for lane in self._lanes}
        terms = [lane.spec.weight * score for lane in self._lanes if (score := components[lane.spec.label]) is not None]
        return Scored(row.sample, sum(terms) if len(terms) == len(components) else None, components)


def checked_scores(label: str, answer: Any, requests: Sequence[Request]) -> list[float | None]:
    """A reward's answer as floats and None, one per request. A one-dimensional array or tensor counts as its list.

    Raises:
        RewardError: not a list, the wrong length, or an entry that is no finite number; names a prompt.
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
        raise ConfigError(f"two rewards are called {twice!r}.", "Give one of them another `label:`.")
