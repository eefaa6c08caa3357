from __future__ import annotations

import pytest
import torch
from omni_rl_testing.algorithm import AlgorithmContract

from {{ cookiecutter.module }} import Reinforce


class TestReinforce(AlgorithmContract):
    """The inherited contract tests."""

    @pytest.fixture
    def options(self) -> Reinforce.Config:
        return Reinforce.Config()

    @pytest.fixture
    def algorithm(self, options: Reinforce.Config) -> Reinforce:
        return Reinforce(options)


def test_advantages_are_relative_to_the_group() -> None:
    rewards, uid = torch.tensor([1.0, 3.0, 10.0, 12.0]), torch.tensor([0, 0, 1, 1])
    assert Reinforce(Reinforce.Config()).compute_advantages(rewards, uid).tolist() == [-1, 1, -1, 1]


def test_advantages_are_clipped() -> None:
    rewards, uid = torch.tensor([0.0, 8.0]), torch.tensor([0, 0])
    clipped = Reinforce(Reinforce.Config(advantage_clip=3)).compute_advantages(rewards, uid)
    assert clipped.tolist() == [-3, 3]
