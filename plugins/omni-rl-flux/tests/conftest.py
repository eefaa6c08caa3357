from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from omni_rl_flux import flux1
from omni_rl_testing.model import assembled
from omni_rl_testing.parts import Parts

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}


@pytest.fixture(scope="session")
def kontext_folder(tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny random FLUX.1 Kontext."""
    return tiny_folder("FluxKontextPipeline")


@pytest.fixture(scope="module")
def parts(tiny_folder: Callable[[str], Path]) -> Parts:
    """A run's parts around the plugin."""
    return assembled(tiny_folder("FluxPipeline"), flux1, CALL, ("a", "b"))
