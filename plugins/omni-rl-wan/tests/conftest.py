from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import omni_rl_wan
from omni_rl.contracts.model import LoadedModel
from omni_rl_testing.model import assembled
from omni_rl_testing.parts import Parts

CALL = {"height": 16, "width": 32, "num_frames": 5, "max_sequence_length": 64, "negative_prompt": "hello"}


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny random Wan 2.1."""
    return tiny_folder("WanPipeline")


@pytest.fixture(scope="module")
def two_experts(tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny random Wan 2.2, whose boundary lies at timestep 875."""
    return tiny_folder("WanPipeline-two-experts")


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    """A run's parts around the plugin."""
    return assembled(folder, omni_rl_wan, CALL, ("a", "b"))


@pytest.fixture(scope="module")
def parts_of_two(two_experts: Path) -> Parts:
    """The same with two experts."""
    return assembled(two_experts, omni_rl_wan, CALL, ("a", "b"))


@pytest.fixture
def rows() -> Iterator[Callable[[LoadedModel], list[tuple[str, int]]]]:
    """``rows(model)``: (expert, rows) of every call from now on."""
    handles = []

    def watch(model: LoadedModel) -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []
        for name, expert in model.denoisers.items():
            hook = partial(lambda name, _, args, kwargs: seen.append((name, len(kwargs["hidden_states"]))), name)
            handles.append(expert.register_forward_pre_hook(hook, with_kwargs=True))
        return seen

    yield watch
    for handle in handles:
        handle.remove()
