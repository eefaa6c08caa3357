from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from omni_rl.errors import ConfigError
from omni_rl_mix_grpo import MixGRPO, MixGRPOConfig
from omni_rl_testing.algorithm import AlgorithmContract


def algorithm(**options) -> MixGRPO:
    return MixGRPO(MixGRPOConfig(**options))


class TestMixGRPO(AlgorithmContract):
    @pytest.fixture(params=[{}, {"order": "random"}, {"iterations_per_position": 1, "overlap": 1, "at_end": "stop"}])
    def options(self, request):
        return MixGRPOConfig(**request.param)

    @pytest.fixture
    def algorithm(self, options):
        return MixGRPO(options)


def starts(iterations: int, steps: int = 10, **options) -> list[int]:
    asked = algorithm(**options)
    found = [asked.sde_window(iteration=i, steps=steps, seed=0) for i in range(iterations)]
    assert len({window.size for window in found}) == 1
    return [window.start for window in found]


def test_the_window_slides_and_wraps_around():
    """Peers clamp it at the end for ever."""
    assert starts(12, window_size=2, window_range=(0, 6), iterations_per_position=2) == [0, 0, 2, 2, 4, 4] * 2


def test_the_window_stops_where_that_is_asked_for():
    found = starts(9, window_size=2, window_range=(1, 6), iterations_per_position=1, at_end="stop")
    assert found == [1, 3, 4, 4, 4, 4, 4, 4, 4]


def test_positions_overlap():
    found = starts(5, window_size=3, window_range=(0, 6), iterations_per_position=1, overlap=2)
    assert found == [0, 1, 2, 3, 0]


def test_every_step_of_the_range_is_trained_on():
    for size in (1, 2, 3, 4):
        found = starts(20, window_size=size, window_range=(1, 8), iterations_per_position=1)
        assert {step for start in found for step in range(start, start + size)} == set(range(1, 8))


def test_random_windows_are_uniform():
    counts = np.bincount(starts(4000, window_size=2, window_range=(1, 6), order="random"), minlength=5)
    assert counts[0] == 0
    assert ((counts[1:5] - 1000) ** 2 / 1000).sum() < 21.1  # chi-squared, 3 degrees of freedom, 1e-4


def test_a_window_that_would_not_move_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm.overlap 2 keeps a window of 2 steps from moving"):
        starts(1, overlap=2)
    with pytest.raises(ConfigError, match=r"algorithm.window_size 12 does not fit"):
        starts(1, window_size=12)
    with pytest.raises(ValidationError):
        MixGRPOConfig(iterations_per_position=0)
