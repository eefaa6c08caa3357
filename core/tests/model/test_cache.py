"""What modules compute once for each model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toy_two_streams

from omni_rl.contracts.model import Cache, LoadedModel


@pytest.fixture
def models() -> list[LoadedModel]:
    pipe = toy_two_streams.pipeline()
    return [LoadedModel(pipe, "Toy", Path("toy"), torch.device("cpu"), torch.float32) for _ in range(2)]


def test_a_value_is_computed_once_for_each_model_and_key(models):
    squares, computed = Cache[int, int](), []

    def square(model, key):
        return squares.get(model, key, lambda: computed.append(key) or key**2)

    assert [square(models[0], 3), square(models[0], 3), square(models[0], 4), square(models[1], 3)] == [9, 9, 16, 9]
    assert computed == [3, 4, 3]
    assert squares.of(models[0]) == {3: 9, 4: 16}


def test_caches_of_two_modules_with_equal_keys_do_not_mix(models):
    first, second = Cache[str, int](), Cache[str, str]()
    first.get(models[0], "key", lambda: 1)
    assert second.get(models[0], "key", lambda: "other") == "other"


def test_a_computation_that_fails_leaves_nothing(models):
    cache = Cache[str, float]()
    with pytest.raises(ZeroDivisionError):
        cache.get(models[0], "key", lambda: 1 / 0)
    assert cache.of(models[0]) == {}
