"""The suite of ranks passes the backend torch and fails one test for each difference from one process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omni_rl_testing.ranks import RanksContract, on_ranks

pytestmark = pytest.mark.full


def off(tensors, factor=1.001):
    """The largest of the tensors is changed."""
    name = max(tensors, key=lambda n: float(tensors[n].abs().max()) if tensors[n].is_floating_point() else 0)
    return {**tensors, name: factor * tensors[name]}


def without_one(tensors):
    return dict(list(tensors.items())[1:])


FAULTS = {
    "half of the gradients": (
        "test_gradients_are_those_of_one_process",
        lambda one: replace(one, gradients={n: v / 2 for n, v in one.gradients.items()}),
    ),
    "a gradient": ("test_gradients_are_those_of_one_process", lambda one: replace(one, gradients=off(one.gradients))),
    "a missing gradient": (
        "test_gradients_are_those_of_one_process",
        lambda one: replace(one, gradients=without_one(one.gradients)),
    ),
    "a metric": (
        "test_metrics_are_those_of_one_process",
        lambda one: replace(
            one, figures=[{**row, "actor/grad_norm": 0.5 * row["actor/grad_norm"]} for row in one.figures]
        ),
    ),
    "a rank's state": ("test_all_ranks_have_equal_results", lambda one: replace(one, state=off(one.state))),
    "a rank's weights": ("test_all_ranks_have_equal_results", lambda one: replace(one, sent=off(one.sent))),
    "weights": (
        "test_weights_change_as_in_one_process",
        lambda one: replace(one, state={n: 1.1 * v for n, v in one.state.items()}),
    ),
    "weights for the engine": (
        "test_weights_change_as_in_one_process",
        lambda one: replace(one, sent=off(one.sent, 2)),
    ),
    "a part of the state": (
        "test_one_process_continues_with_the_state_of_ranks",
        lambda one: replace(one, state=without_one(one.state)),
    ),
}
"""What the first rank has, and the test that finds it."""


class TestTorch(RanksContract):
    """With the toy pipeline."""

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_is_found(self, fault, all_compared):
        test, changed = FAULTS[fault]
        sound = all_compared["full-both"]
        faulty = replace(sound, ranks=[changed(sound.ranks[0]), *sound.ranks[1:]])
        getattr(self, test)(sound)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            getattr(self, test)(faulty)

    def test_every_test_finds_a_fault(self):
        assert {name for name in dir(RanksContract) if name.startswith("test_")} == {
            test for test, _ in FAULTS.values()
        }


def test_the_fixtures_of_a_suite_are_taken_without_its_tests():
    class Suite:
        call = "fixture"

        def test_more(self): ...

    found = on_ranks(Suite)
    assert found.call == "fixture"
    assert [n for n in dir(found) if n.startswith("test_") and getattr(found, n)] == [
        n for n in dir(RanksContract) if n.startswith("test_")
    ]
