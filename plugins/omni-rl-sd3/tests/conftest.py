from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import omni_rl_sd3
from omni_rl_testing.model import assembled
from omni_rl_testing.parts import Parts

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny random StableDiffusion3Pipeline."""
    return tiny_folder("StableDiffusion3Pipeline")


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    """A run's parts around the plugin."""
    return assembled(folder, omni_rl_sd3, CALL, ("a", "b"))
