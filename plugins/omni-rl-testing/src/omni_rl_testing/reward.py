"""Contract tests of rewards. See :class:`RewardContract`."""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from omni_rl.contracts.reward import Reward, RewardBatch, Scores
from omni_rl.contracts.schema import RewardEntry

UNKNOWN_KEY = "no_reward_has_this_option"


class RewardContract:
    """Checks that a run can use a reward. Inherit it and supply two fixtures.

    ``reward``: the reward under test, built from its ``Config``.

    ``samples``: a :class:`RewardBatch` of at least four samples with different scores. For a reward of scope ``group``:
    at least two groups, each with consecutive samples.

    Attributes:
        tolerance: largest allowed difference between two scores of one sample. Raise it only for a reward whose
            rounding depends on its batch (a network on a GPU), and only as much as needed.
    """

    tolerance: ClassVar[float] = 1e-6

    def test_scope_is_sample_or_group(self, reward: Reward) -> None:
        """``scope`` tells core how to batch samples.

        Fix ``scope``: "sample", or "group" if a sample can only be scored together with its group.
        """
        assert reward.scope in ("sample", "group")

    def test_config_refuses_unknown_keys(self, reward: Reward) -> None:
        """An unknown option must be an error.

        Fix ``Config``: ``model_config = ConfigDict(extra="forbid")``.
        """
        with pytest.raises(ValidationError) as refused:
            reward.Config.model_validate({UNKNOWN_KEY: 1})
        reasons = {(error["type"], error["loc"]) for error in refused.value.errors()}
        assert ("extra_forbidden", (UNKNOWN_KEY,)) in reasons, (
            f'{reward.Config.__qualname__} ignores unknown keys; give it model_config = ConfigDict(extra="forbid")'
        )

    def test_options_do_not_shadow_the_section(self, reward: Reward) -> None:
        """Users write options next to core's own keys of a reward section, so no option may have the name of such a
        key.

        Fix ``Config``: rename the option.
        """
        assert not set(reward.Config.model_fields) & set(RewardEntry.model_fields)

    def test_options_are_described(self, reward: Reward) -> None:
        """``omni-rl config --explain`` shows the description of every option.

        Fix ``Config``: ``Field(..., description="what it does")``.
        """
        fields = reward.Config.model_fields.items()
        assert [name for name, field in fields if not field.description] == []

    def test_one_finite_number_or_none_per_sample(self, reward: Reward, samples: RewardBatch) -> None:
        """A missing score is None; NaN and infinity are not allowed.

        Fix ``score``: return one value per sample, float() of tensors, and None for a sample that cannot be scored.
        """
        scores = scores_of(reward, samples)
        assert len(scores) == len(samples)
        wrong = {row: score for row, score in enumerate(scores) if not (score is None or _is_finite_number(score))}
        assert wrong == {}

    def test_scores_differ(self, reward: Reward, samples: RewardBatch) -> None:
        """A reward with equal scores for all samples teaches nothing, and would pass all other tests.

        Fix ``score``, or give the fixture ``samples`` samples that the reward scores differently.
        """
        assert len({score for score in scores_of(reward, samples) if score is not None}) > 1

    def test_order_does_not_matter(self, reward: Reward, samples: RewardBatch) -> None:
        """Scores follow their samples if the batch is reordered.

        Fix ``score``: return scores in the order of ``batch.media``.
        """
        order = list(reversed(range(len(samples))))
        expected = [scores_of(reward, samples)[row] for row in order]
        self.assert_same(scores_of(reward, take(samples, order)), expected)

    def test_the_rest_of_the_batch_does_not_matter(self, reward: Reward, samples: RewardBatch) -> None:
        """A sample (for scope ``group``: a group) gets the same score alone and in a larger batch.

        Fix ``score``: no padding, mean or maximum over the batch; use ``scope = "group"`` if scores depend on the
        group.
        """
        together = scores_of(reward, samples)
        alone: list[float | None] = [None] * len(samples)
        for rows in _parts(reward, samples):
            for row, score in zip(rows, scores_of(reward, take(samples, rows)), strict=True):
                alone[row] = score
        self.assert_same(alone, together)

    def test_samples_are_left_alone(self, reward: Reward, samples: RewardBatch) -> None:
        """``score`` must not change media, because every reward and the report use the same media.

        Fix ``score``: copy media before changing them.
        """
        before = copy.deepcopy(samples)
        scores_of(reward, samples)
        assert (samples.prompts, samples.metadata, samples.uids) == (before.prompts, before.metadata, before.uids)
        for now, then in zip(samples.media, before.media, strict=True):
            assert now.keys() == then.keys()
            assert all(np.array_equal(now[kind].data, then[kind].data) for kind in then)

    def assert_same(self, found: Scores, expected: Scores) -> None:
        """Fail unless both lists agree within ``tolerance`` and have missing scores at the same positions."""
        assert len(found) == len(expected)
        pairs = list(zip(found, expected, strict=True))
        different = {row: (a, b) for row, (a, b) in enumerate(pairs) if not self._agree(a, b)}
        assert different == {}, "row: (found, expected)"

    def _agree(self, a: float | None, b: float | None) -> bool:
        if a is None or b is None:
            return a is b
        return math.isclose(a, b, rel_tol=self.tolerance, abs_tol=self.tolerance)


def scores_of(reward: Reward, batch: RewardBatch) -> Scores:
    """The scores of a batch; also if ``score`` is asynchronous."""
    answer = reward.score(batch)
    return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer


def take(batch: RewardBatch, rows: Sequence[int]) -> RewardBatch:
    """The samples ``rows`` of a batch, in this order."""
    return RewardBatch(
        media=[batch.media[row] for row in rows],
        prompts=[batch.prompts[row] for row in rows],
        metadata=[batch.metadata[row] for row in rows],
        uids=[batch.uids[row] for row in rows],
    )


async def _awaited(answer: Any) -> Any:
    return await answer


def _is_finite_number(score: object) -> bool:
    return isinstance(score, Real) and not isinstance(score, bool) and math.isfinite(score)


def _parts(reward: Reward, batch: RewardBatch) -> list[list[int]]:
    """The rows of each part of the batch that can be scored separately."""
    rows = range(len(batch))
    if reward.scope == "sample":
        return [[row] for row in rows]
    return [[row for row in rows if batch.uids[row] == uid] for uid in dict.fromkeys(batch.uids)]
