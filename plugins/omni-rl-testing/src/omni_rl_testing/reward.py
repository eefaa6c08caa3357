"""The contract of rewards, as tests. See :class:`RewardContract`."""

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
    """What a run relies on. Inherit it and supply two fixtures.

    ``reward``: the reward under test, built from its ``Config``.
    ``samples``: a :class:`RewardBatch` of at least four samples which the reward does not all score alike; for a
    reward of scope ``group``, two groups or more, the samples of a group side by side.

    Attributes:
        tolerance: largest difference between two scores of one sample that still counts as none. Raise it only for a
            reward whose arithmetic depends on its batch (a network on a GPU), and by no more than that explains.
    """

    tolerance: ClassVar[float] = 1e-6

    def test_scope_is_sample_or_group(self, reward: Reward) -> None:
        """``scope`` tells core how samples may be batched.

        Mend ``scope``: "sample", or "group" where a sample can only be judged beside its group.
        """
        assert reward.scope in ("sample", "group")

    def test_config_refuses_unknown_keys(self, reward: Reward) -> None:
        """A misspelt option is an error, never a default.

        Mend ``Config``: ``model_config = ConfigDict(extra="forbid")``.
        """
        with pytest.raises(ValidationError) as refused:
            reward.Config.model_validate({UNKNOWN_KEY: 1})
        reasons = {(error["type"], error["loc"]) for error in refused.value.errors()}
        assert ("extra_forbidden", (UNKNOWN_KEY,)) in reasons, (
            f'{reward.Config.__qualname__} ignores unknown keys; give it model_config = ConfigDict(extra="forbid")'
        )

    def test_options_do_not_shadow_the_section(self, reward: Reward) -> None:
        """Options stand beside core's own keys of a reward section, so none may bear the name of one.

        Mend ``Config``: rename the option.
        """
        assert not set(reward.Config.model_fields) & set(RewardEntry.model_fields)

    def test_options_are_described(self, reward: Reward) -> None:
        """``omni-rl config --explain`` shows the description of every option.

        Mend ``Config``: ``Field(..., description="what it does")``.
        """
        fields = reward.Config.model_fields.items()
        assert [name for name, field in fields if not field.description] == []

    def test_one_finite_number_or_none_per_sample(self, reward: Reward, samples: RewardBatch) -> None:
        """A missing score is None; NaN and infinity are neither numbers nor missing.

        Mend ``score``: as many answers as samples; float() what is a tensor, None where there is no score.
        """
        scores = scores_of(reward, samples)
        assert len(scores) == len(samples)
        wrong = {row: score for row, score in enumerate(scores) if not (score is None or _is_finite_number(score))}
        assert wrong == {}

    def test_scores_differ(self, reward: Reward, samples: RewardBatch) -> None:
        """A reward that scores everything alike teaches nothing, and would pass the tests below whatever it does.

        Mend ``score``, or give the fixture ``samples`` something that the reward tells apart.
        """
        assert len({score for score in scores_of(reward, samples) if score is not None}) > 1

    def test_order_does_not_matter(self, reward: Reward, samples: RewardBatch) -> None:
        """Scores follow their samples through a permutation of the batch.

        Mend ``score``: answer in the order of ``batch.media``.
        """
        order = list(reversed(range(len(samples))))
        expected = [scores_of(reward, samples)[row] for row in order]
        self.assert_same(scores_of(reward, take(samples, order)), expected)

    def test_the_rest_of_the_batch_does_not_matter(self, reward: Reward, samples: RewardBatch) -> None:
        """A sample (a group, for scope ``group``) scored alone gets what it gets beside others.

        Mend ``score``: no padding, mean or maximum over the batch, or ``scope = "group"`` if the group is what counts.
        """
        together = scores_of(reward, samples)
        alone: list[float | None] = [None] * len(samples)
        for rows in _parts(reward, samples):
            for row, score in zip(rows, scores_of(reward, take(samples, rows)), strict=True):
                alone[row] = score
        self.assert_same(alone, together)

    def test_samples_are_left_alone(self, reward: Reward, samples: RewardBatch) -> None:
        """The same media go to every reward of a run and into its report.

        Mend ``score``: copy what is changed.
        """
        before = copy.deepcopy(samples)
        scores_of(reward, samples)
        assert (samples.prompts, samples.metadata, samples.uids) == (before.prompts, before.metadata, before.uids)
        for now, then in zip(samples.media, before.media, strict=True):
            assert now.keys() == then.keys()
            assert all(np.array_equal(now[kind].data, then[kind].data) for kind in then)

    def assert_same(self, found: Scores, expected: Scores) -> None:
        """Fail unless both lists agree within ``tolerance``, missing scores in the same places."""
        assert len(found) == len(expected)
        pairs = list(zip(found, expected, strict=True))
        different = {row: (a, b) for row, (a, b) in enumerate(pairs) if not self._agree(a, b)}
        assert different == {}, "row: (found, expected)"

    def _agree(self, a: float | None, b: float | None) -> bool:
        if a is None or b is None:
            return a is b
        return math.isclose(a, b, rel_tol=self.tolerance, abs_tol=self.tolerance)


def scores_of(reward: Reward, batch: RewardBatch) -> Scores:
    """The scores of a batch, awaited when ``score`` is asynchronous."""
    answer = reward.score(batch)
    return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer


def take(batch: RewardBatch, rows: Sequence[int]) -> RewardBatch:
    """The samples ``rows`` of a batch, in that order."""
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
    """The rows that may be scored apart from each other."""
    rows = range(len(batch))
    if reward.scope == "sample":
        return [[row] for row in rows]
    return [[row for row in rows if batch.uids[row] == uid] for uid in dict.fromkeys(batch.uids)]
