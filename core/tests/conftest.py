"""Where tests find the modules that they share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from model_cases import Case

sys.path.insert(0, str(Path(__file__).parent))  # diffusers imports toy_two_streams by name


@pytest.fixture(scope="session")
def cases(tiny_folder: Callable[[str], Path]) -> Callable[[str, bool], Case]:
    """``cases("FluxPipeline", True)``: an architecture with or without guidance."""
    from model_cases import GUIDED, Case, unguided

    made: dict[tuple[str, bool], Case] = {}

    def case(architecture: str, guided: bool) -> Case:
        key = (architecture, guided)
        if key not in made:
            call = GUIDED[architecture] if guided else unguided(GUIDED[architecture])
            made[key] = Case(architecture, tiny_folder(architecture), call, guided)
        return made[key]

    return case
