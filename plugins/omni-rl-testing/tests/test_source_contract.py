"""The source suite passes core's own source and fails one test for each way to break the contract."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from omni_rl.contracts.events import State
from omni_rl.contracts.prompts import PromptRow
from omni_rl.sampling.plan_requests import rollout_requests
from omni_rl_testing.parts import PROMPTS
from omni_rl_testing.source import SourceContract, begun
from omni_rl_testing.toy import toy_model


class TestOnPolicy(SourceContract):
    """Core's own."""

    @pytest.fixture
    def make_source(self):
        return lambda **given: given["sampled"]


class Around:
    """Core's own source, as other sources wrap it."""

    staleness = 0

    def __init__(self, sampled):
        self.sampled = sampled

    def next(self, state):
        return self.sampled.next(state)

    def held_out(self, state):
        return {}

    def state(self):
        return {}

    def load_state(self, state: Mapping):
        pass

    def close(self):
        pass


class Empty(Around):
    def next(self, state):
        found = super().next(state)
        return replace(found, batch=found.batch[:0])


class Mixed(Around):
    """Spreads the rows of a group over the batch."""

    def next(self, state):
        found = super().next(state)
        rows = torch.arange(len(found.batch)).view(2, -1).T.flatten()
        return replace(found, batch=found.batch[rows])


class NotANumber(Around):
    def next(self, state):
        return replace(super().next(state), figures={"reward/mean": float("nan")})


class Ahead(Around):
    """Samples the next iteration too, and forgets it in a checkpoint."""

    staleness = 1

    def __init__(self, sampled):
        super().__init__(sampled)
        self.ready = {}

    def next(self, state):
        for iteration in (state.iteration, state.iteration + 1):
            if iteration not in self.ready:
                self.ready[iteration] = self.sampled.next(State(iteration, state.policy_version))
        return self.ready.pop(state.iteration)


class Understated(Ahead):
    staleness = 0


class Prophetic(Around):
    """States the version after the update."""

    def next(self, state):
        return super().next(State(state.iteration, state.policy_version + 1))


class Relabelling(Ahead):
    """States the version of the moment for samples that an older one drew."""

    def next(self, state):
        found = super().next(state)
        found.batch["policy_version"] = torch.full_like(found.batch["policy_version"], state.policy_version)
        return found


class Counting(Around):
    """Other noise in every call of this process."""

    calls = itertools.count(100)

    def next(self, state):
        return super().next(State(next(self.calls), state.policy_version))


class Tuples(Around):
    def state(self):
        return {"in_flight": (1, 2)}


class Consuming(Ahead):
    """Saving hands over what is in flight."""

    def state(self):
        self.ready.clear()
        return {}


class Demanding(Around):
    def load_state(self, state):
        self.position = state["position"]


class Boundless(Around):
    def held_out(self, state):
        return {"loss": float("inf")}


class Leaking(Around):
    """The requests of the next iteration stay in the engine."""

    def close(self):
        sampled = self.sampled
        sampled.engine.submit(rollout_requests(sampled.config, sampled.hooks, sampled.prompts, 1, 0))


class Threaded(Around):
    """A thread goes on after close."""

    def __init__(self, sampled):
        super().__init__(sampled)
        self.end = threading.Event()
        threading.Thread(target=self.end.wait, args=(20,), name="prefetch", daemon=True).start()


class CloseOnce(Around):
    def close(self):
        del self.sampled


FAULTS = {
    Empty: "test_every_iteration_has_a_batch",
    Mixed: "test_every_iteration_has_a_batch",
    NotANumber: "test_every_iteration_has_a_batch",
    Understated: "test_samples_are_as_old_as_the_source_says",
    Prophetic: "test_samples_are_as_old_as_the_source_says",
    Relabelling: "test_samples_state_the_version_that_drew_them",
    Counting: "test_equal_runs_have_equal_batches",
    Ahead: "test_state_goes_on_exactly",
    Tuples: "test_state_is_plain_data",
    Consuming: "test_state_is_plain_data",
    Demanding: "test_a_checkpoint_may_have_no_state_of_the_source",
    Boundless: "test_held_out_figures_are_finite_and_change_nothing",
    Leaking: "test_nothing_is_in_flight_after_close",
    Threaded: "test_nothing_is_in_flight_after_close",
    CloseOnce: "test_closing_twice_is_closing",
}
TESTS = [name for name in dir(SourceContract) if name.startswith("test_")]
SECTIONS = {"rollout": {"prompts": 2, "group_size": 2, "steps": 4}}


@pytest.mark.parametrize(("faulty", "test"), FAULTS.items(), ids=[kind.__name__ for kind in FAULTS])
def test_a_fault_is_found(faulty, test):
    rows = [PromptRow(prompt) for prompt in PROMPTS]
    made = []

    def begin():
        made.append(begun(lambda **given: faulty(given["sampled"]), toy_model, rows, SECTIONS))
        return made[-1]

    with pytest.raises((AssertionError, AttributeError, KeyError)):
        getattr(SourceContract(), test)(begin)
    for run in made:
        with closing(run.rewards):
            getattr(run.source, "end", threading.Event()).set()


@pytest.mark.parametrize("test", TESTS)
def test_every_test_finds_a_fault(test):
    assert test in FAULTS.values()
