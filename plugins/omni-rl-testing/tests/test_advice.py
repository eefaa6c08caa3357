"""Every check of every suite says why it is there and what to fix: `omni-rl conformance` shows it when it fails."""

from __future__ import annotations

import inspect

import pytest

from omni_rl_testing.algorithm import AlgorithmContract
from omni_rl_testing.backend import BackendContract
from omni_rl_testing.engine import EngineContract
from omni_rl_testing.launcher import LauncherContract
from omni_rl_testing.model import ModelContract
from omni_rl_testing.reward import RewardContract
from omni_rl_testing.source import SourceContract

CONTRACTS = (
    AlgorithmContract,
    BackendContract,
    EngineContract,
    LauncherContract,
    ModelContract,
    RewardContract,
    SourceContract,
)
CHECKS = [getattr(c, name) for c in CONTRACTS for name in dir(c) if name.startswith("test_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__qualname__)
def test_a_check_says_why_it_is_there_and_what_to_fix(check):
    why, *advice = inspect.cleandoc(check.__doc__).split("\n\n")
    assert why.endswith(".")
    assert [text for text in advice if text.startswith("Fix ")]
