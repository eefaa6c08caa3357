"""Contract tests of experience sources. See :class:`SourceContract`."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import BaseModel
from tensordict import TensorDict

from omni_rl.contracts.events import State
from omni_rl.contracts.interfaces import Experience, ExperienceSource
from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.prompts import PromptRow, PromptSet
from omni_rl.contracts.reward import RewardBatch
from omni_rl.contracts.types import Tensors
from omni_rl.rewards.runner import RewardRunner, RewardSpec
from omni_rl.run.experience import Sampled
from omni_rl_testing.parts import POLICY, PROMPTS, Parts, assemble
from omni_rl_testing.toy import toy_model

ITERATIONS = 4
MakeSource = Callable[..., ExperienceSource]


class SourceContract:
    """Checks that a run can train on an experience source. Inherit it and supply one fixture.

    The suite goes through iterations as a run does, but in place of an update it changes all weights by a fixed step.

    ``make_source``: a function with the keyword arguments of the hook ``experience_source``, e.g.
    ``lambda **given: Ahead(given["sampled"])``. Called more than once, for several runs.

    ``make_model`` (optional): a function that returns a new model with equal weights in every call; default: the toy
    pipeline.

    ``rows`` (optional): prompts, at least two; default: prompts without metadata.

    ``sections`` (optional): sections of the configuration.

    Attributes:
        tolerance: largest allowed difference between a stored log-prob and the one of the stated policy version.
    """

    tolerance: ClassVar[float] = 1e-4

    @pytest.fixture
    def make_model(self) -> Callable[[], LoadedModel]:
        """Make the toy pipeline."""
        return toy_model

    @pytest.fixture
    def rows(self) -> Sequence[PromptRow]:
        """Prompts of different length."""
        return [PromptRow(prompt) for prompt in PROMPTS]

    @pytest.fixture
    def sections(self) -> dict[str, Any]:
        """Two prompts per iteration, so that the prompts of an iteration differ from those of the next."""
        return {"rollout": {"prompts": 2, "group_size": 2, "steps": 4}}

    @pytest.fixture
    def begin(
        self,
        make_source: MakeSource,
        make_model: Callable[[], LoadedModel],
        rows: Sequence[PromptRow],
        sections: dict[str, Any],
    ) -> Iterator[Callable[[], Progress]]:
        """``begin()`` starts a new run with a new source; all runs are equal."""
        with contextlib.ExitStack() as stack:
            yield lambda: stack.enter_context(contextlib.closing(begun(make_source, make_model, rows, sections)))

    # ------------------------------------------------------------------------------------------------------- batches

    def test_every_iteration_has_a_batch(self, begin: Begin) -> None:
        """An update needs at least one row, and whole groups one after the other; figures are finite numbers.

        Fix ``next``: put the rows of a group together, and do not return an empty batch.
        """
        run = begin()
        for _ in range(ITERATIONS):
            experience = run.advance()
            uid = experience.batch["uid"].tolist()
            assert uid
            changes = [i for i, group in enumerate(uid) if i == 0 or uid[i - 1] != group]
            assert len(changes) == len(set(uid)), f"the rows of a group are apart: {uid}"
            assert experience.samples >= 0
            assert all(math.isfinite(value) for value in experience.figures.values()), experience.figures
            assert all(isinstance(note, str) for note in experience.notes)

    def test_samples_are_as_old_as_the_source_says(self, begin: Begin) -> None:
        """No sample is older than ``staleness`` weight syncs, and none is from a later policy version.

        Fix ``staleness``, or sample fewer iterations ahead.
        """
        run = begin()
        assert isinstance(run.source.staleness, int)
        assert run.source.staleness >= 0
        for version in range(ITERATIONS):
            ages = version - run.advance().batch["policy_version"]
            assert int(ages.min()) >= 0
            assert int(ages.max()) <= run.source.staleness

    def test_samples_state_the_version_that_drew_them(self, begin: Begin) -> None:
        """A stored log-prob is the one of the policy version that the row states: ratios and corrections need it.

        Fix ``next``: leave ``policy_version`` as in the request with which the sample was drawn.
        """
        run = begin()
        batches = [run.advance().batch for _ in range(ITERATIONS)]
        if "log_probs" not in batches[0].keys():
            pytest.skip("the source stores no log-probs")
        for batch in batches:
            for version in batch["policy_version"].unique().tolist():
                rows = batch[batch["policy_version"] == version]
                found = run.log_probs(rows, version)
                torch.testing.assert_close(found, rows["log_probs"][:, 0], rtol=0, atol=self.tolerance)

    def test_equal_runs_have_equal_batches(self, begin: Begin) -> None:
        """The data of an iteration depends on the run's seed, the iteration and the weights, and on nothing else.

        Fix ``next``: draw from ``omni_rl.schedulers.seed_of(seed, ..., state.iteration)``, not from a generator that
        goes on.
        """
        one, other = begin(), begin()
        for _ in range(ITERATIONS):
            assert_equal(one.advance(), other.advance())

    # --------------------------------------------------------------------------------------------------------- state

    def test_state_goes_on_exactly(self, begin: Begin) -> None:
        """A new source that loads the state returns the batches that the first one would have returned.

        Fix ``state`` and ``load_state``: save what is in flight, with its policy version, or the finished samples.
        """
        first, second = begin(), begin()
        for _ in range(2):
            first.advance()
        saved = json.loads(json.dumps(first.source.state()))
        second.continue_from(first)
        second.source.load_state(saved)
        for _ in range(2):
            assert_equal(second.advance(), first.advance())

    def test_state_is_plain_data(self, begin: Begin) -> None:
        """The state is written to a checkpoint as JSON; reading it changes nothing.

        Fix ``state``: lists, not tuples; names, not numbers, as keys; no tensors.
        """
        run, untouched = begin(), begin()
        for _ in range(2):
            state = run.source.state()
            assert json.loads(json.dumps(state)) == state
            assert_equal(run.advance(), untouched.advance())

    def test_a_checkpoint_may_have_no_state_of_the_source(self, begin: Begin) -> None:
        """``load_state`` receives ``{}`` from a checkpoint of another source; the source then starts anew.

        Fix ``load_state``: every key may be missing.
        """
        run, untouched = begin(), begin()
        run.source.load_state({})
        assert_equal(run.advance(), untouched.advance())

    def test_held_out_figures_are_finite_and_change_nothing(self, begin: Begin) -> None:
        """``held_out`` returns numbers by name, and validation does not change what is trained.

        Fix ``held_out``: return ``{}`` if there is nothing to measure; use no state of ``next``.
        """
        run, untouched = begin(), begin()
        for _ in range(2):
            figures = run.source.held_out(run.state)
            assert all(math.isfinite(value) for value in figures.values()), figures
            assert_equal(run.advance(), untouched.advance())

    # --------------------------------------------------------------------------------------------------------- close

    def test_nothing_is_in_flight_after_close(self, begin: Begin) -> None:
        """A closed source has stopped its threads, and no request of it is left in the engine.

        Fix ``close``: cancel or collect what was requested, and join threads.
        """
        before = set(threading.enumerate())
        run = begin()
        run.advance()
        run.source.close()
        assert list(run.parts.engine.completed()) == []
        run.rewards.close()
        run.parts.close()
        assert [thread.name for thread in set(threading.enumerate()) - before] == []

    def test_closing_twice_is_closing(self, begin: Begin) -> None:
        """A run may close its source twice, also before the first iteration.

        Fix ``close``: release all resources once.
        """
        for iterations in (0, 1):
            run = begin()
            for _ in range(iterations):
                run.advance()
            run.source.close()
            run.source.close()


class NoOptions(BaseModel):
    """The options of :class:`Brightness`."""


class Brightness:
    """The mean of an image, in [0, 1]."""

    Config: ClassVar[type[BaseModel]] = NoOptions
    scope: Literal["sample", "group"] = "sample"

    def __init__(self, config: Any) -> None:
        self.config = config

    def score(self, batch: RewardBatch) -> list[float]:
        """One number per sample, of whatever the pipeline makes."""
        return [float(next(iter(media.values())).data.mean()) for media in batch.media]


@dataclass
class Progress:
    """A run that goes from iteration to iteration.

    Attributes:
        versions: the trained weights of every policy version, by canonical name.
    """

    parts: Parts
    source: ExperienceSource
    rewards: RewardRunner
    state: State = field(default_factory=State)
    versions: list[Tensors] = field(default_factory=list)

    def advance(self) -> Experience:
        """One iteration: the source's data, other weights, and a sync."""
        self.versions.append(self.parts.trained())
        experience = self.source.next(self.state)
        self.parts.nudge(self.state.iteration)
        self.state = State(self.state.iteration + 1, self.state.policy_version + 1)
        self.parts.sync(self.state.policy_version)
        return experience

    def continue_from(self, other: Progress) -> None:
        """Take over progress and weights of another run, as a resumed run does."""
        self.state, self.versions = other.state, list(other.versions)
        self.parts.backend.load_state(*other.parts.backend.state())
        self.parts.sync(self.state.policy_version)

    def log_probs(self, rows: TensorDict, version: int) -> torch.Tensor:
        """Log-probs (N,) of the first stored step under the weights of a policy version."""
        backend, now = self.parts.backend, self.parts.backend.state()
        stated = {POLICY + name: value for name, value in self.versions[version].items()}
        backend.load_state({**now[0], **stated}, now[1])
        with torch.no_grad():
            found = backend.policy.evaluate(rows, [0])[0].log_prob.cpu()
        backend.load_state(*now)
        return found

    def close(self) -> None:
        """Close all parts."""
        for part in (self.source, self.rewards, self.parts):
            part.close()


Begin = Callable[[], Progress]


def begun(
    make_source: MakeSource, make_model: Callable[[], LoadedModel], rows: Sequence[PromptRow], sections: dict[str, Any]
) -> Progress:
    """A new run before its first iteration."""
    parts = assemble(make_model(), prompts=[row.prompt for row in rows], **sections)
    prompts = PromptSet(list(rows))
    rewards = RewardRunner([RewardSpec("brightness", 1.0, 8, Brightness(NoOptions()))])
    source = make_source(
        config=parts.config,
        model=parts.model,
        hooks=parts.hooks,
        policy=parts.backend.policy,
        prompts=prompts,
        held_out=[],
        fingerprint="under-test",
        sampled=Sampled(parts.config, parts.hooks, prompts, parts.backend, parts.engine, rewards, "trained"),
    )
    return Progress(parts, source, rewards)


def assert_equal(found: Experience, expected: Experience) -> None:
    """Fail unless both have the same batch, bit for bit."""
    keys = set(expected.batch.keys(include_nested=True, leaves_only=True))
    assert set(found.batch.keys(include_nested=True, leaves_only=True)) == keys
    assert len(found.batch) == len(expected.batch)
    assert [key for key in keys if not torch.equal(found.batch[key], expected.batch[key])] == []
