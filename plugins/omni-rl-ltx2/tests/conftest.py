from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import omni_rl_ltx2
from omni_rl_testing.model import assembled
from omni_rl_testing.parts import Parts

CALL = {"height": 32, "width": 64, "num_frames": 5, "max_sequence_length": 64, "negative_prompt": "hello"}
PERTURBED = {**CALL, "spatio_temporal_guidance_blocks": [1]}


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny random LTX-2."""
    return tiny_folder("LTX2Pipeline")


@pytest.fixture(scope="module")
def folder_of_2_3(tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny random LTX-2.3."""
    return tiny_folder("LTX2Pipeline-2.3")


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    """A run's parts around the plugin."""
    return assembled(folder, omni_rl_ltx2, PERTURBED, ("a", "b"))


@pytest.fixture(scope="module")
def parts_of_2_3(folder_of_2_3: Path) -> Parts:
    """The same of LTX-2.3."""
    return assembled(folder_of_2_3, omni_rl_ltx2, PERTURBED, ("a", "b"))
