"""What a reward's answer means: a list of numbers, None for a missing score, and the reasons why scores are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch

from omni_rl.errors import RewardError
from omni_rl.plugins.blame import describe_failure

LARGEST = float(np.finfo(np.float32).max)
"""Training computes with rewards in fp32, so a larger number is infinite there."""


@dataclass(frozen=True)
class Answer:
    """The result of one reward call for N samples.

    Attributes:
        scores: N numbers, each finite in fp32; None where the score is missing.
        reasons: why scores are missing, one sentence each; empty if the reward itself returned None for them.
        failed: the whole call has no result, so that it may be tried again.
        refused: the reward did what no reward may do: the run stops.
    """

    scores: list[float | None]
    reasons: list[str] = field(default_factory=list)
    failed: bool = False
    refused: RewardError | None = None


def missing(count: int, reason: str) -> Answer:
    """The result of a call that failed: no sample has a score."""
    return Answer([None] * count, [reason], failed=True)


def raised(label: str, count: int, error: BaseException) -> Answer:
    """The result of a call that raised ``error``."""
    return missing(count, describe_failure(label, error))


def answer_of(label: str, returned: Any, prompts: Sequence[str]) -> Answer:
    """Read what a reward returned; never raises, whatever the object is.

    A list of one entry per prompt is needed; an array or tensor with one dimension is accepted. An entry that is not a
    finite number in fp32 makes its sample missing. Anything else is a failed call.
    """
    try:
        return _read(label, returned, prompts)
    except Exception as error:  # an object of the user may raise in every method, also in its conversion to a list
        return raised(label, len(prompts), error)


def _read(label: str, returned: Any, prompts: Sequence[str]) -> Answer:
    listed = returned.tolist() if isinstance(returned, (np.ndarray, torch.Tensor)) else returned
    first = f"(first prompt: {short(prompts[0])})"
    if not isinstance(listed, Sequence) or isinstance(listed, (str, bytes)):
        what = f"reward {label!r} returned {short(returned)} ({type(returned).__name__}) for {len(prompts)} samples"
        return missing(len(prompts), f"{what} {first}. {_LIST}")
    if len(listed) != len(prompts):  # before it becomes a list: a range can be longer than the memory
        what = f"reward {label!r} returned {len(listed)} scores for {len(prompts)} samples {first}"
        return missing(len(prompts), f"{what}. {_LIST}")
    listed = list(listed)
    scores = [_number(entry) for entry in listed]
    pairs = zip(listed, scores, prompts, strict=True)
    wrong = [(entry, prompt) for entry, score, prompt in pairs if score is None and entry is not None]
    return Answer(scores, [_not_a_number(label, *wrong[0], len(wrong))] if wrong else [])


def refusal(labels: Set[str], changes: Sequence[str], when: str = "") -> RewardError:
    """The error that stops the run because a reward changed what others use; ``labels``: the rewards that ran then."""
    named = ", ".join(map(repr, sorted(labels)))
    who = f"reward {named}" if len(labels) == 1 else f"one of the rewards {named}, which ran at the same time,"
    return RewardError(
        f"{who} changed {', '.join(dict.fromkeys(changes))}{when}, which other parts of the run use.",
        "Let the reward undo its own changes, or set `process: true` for it: it then runs in a process of its own.",
    )


_LIST = "Return a list with one number per sample of the batch, in order; None for a sample that cannot be scored."


def _number(entry: Any) -> float | None:
    """The entry as a float that is finite in fp32; None if it is not a real number or too large."""
    try:
        value = float(entry) if isinstance(entry, (Real, np.bool_)) else math.nan
    except Exception:  # OverflowError of a large int, or anything that a class of the user raises
        return None
    return value if in_range(value) else None


def in_range(value: float) -> bool:
    """Whether fp32 can represent the number; False for NaN and infinity."""
    return abs(value) <= LARGEST


def _not_a_number(label: str, entry: Any, prompt: str, count: int) -> str:
    others = f", and {count - 1} more" if count > 1 else ""
    return (
        f"reward {label!r} returned {short(entry)}, which is not a finite number in fp32, for the prompt "
        f"{short(prompt)}{others}. Return a number (x.item() of a tensor), or None for a sample that cannot be scored."
    )


def short(value: Any) -> str:
    """The value's repr on one line of at most 120 characters; its type if ``repr`` raises."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a class of the user, or an int with more digits than Python converts to text
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 120 else f"{text[:120]}..."
