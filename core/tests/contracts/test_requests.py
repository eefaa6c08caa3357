from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rl.contracts.requests import NO_STEPS, Request, Sde, Window, all_steps
from omni_rl.schedulers.types import NoiseKey

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
keys = st.builds(NoiseKey, st.integers(), st.text(), st.integers(), st.integers(), st.integers())
windows = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: Window(min(pair), max(pair)))


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Request,
        uid=st.integers(),
        sample_id=st.integers(),
        prompt=st.text(),
        key=keys,
        initial_key=keys,
        steps=st.integers(1, 100),
        window=windows,
        sde=st.builds(Sde, type=st.sampled_from(["sde", "cps"]), noise_level=st.floats(0, 1)),
        negative_prompt=st.none() | st.text(),
        metadata=st.dictionaries(st.text(), plain),
        call=st.dictionaries(st.text(), plain),
        policy_version=st.integers(),
    )
)
def test_a_request_survives_json(request_):
    """It must reach an engine in any process unchanged; noise levels to the last bit."""
    sent = json.loads(json.dumps(request_.to_json()))
    assert Request.from_json(sent) == request_


def test_unknown_fields_are_not_dropped():
    key = NoiseKey(0, "rollout", 0, 0, 0)
    data = Request(1, 2, "a", key, key, steps=4).to_json()
    with pytest.raises(TypeError, match="strength"):
        Request.from_json({**data, "strength": 0.5})


def test_a_window_holds_its_start_and_not_its_stop():
    window = Window(2, 5)
    assert [step for step in range(8) if step in window] == [2, 3, 4]
    assert window.size == 3


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2)])
def test_an_impossible_window_is_refused(start, stop):
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        Window(start, stop)


@pytest.mark.parametrize(("steps", "size"), [(10, 9), (2, 1), (1, 0)])
def test_all_steps_are_all_but_the_last(steps, size):
    assert all_steps(steps) == Window(0, size)
    assert all(step not in NO_STEPS for step in range(steps))
