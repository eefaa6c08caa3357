from __future__ import annotations

import sys
from pathlib import Path

import pytest

import omni_rl_sd3
from omni_rl.testing.assembly import Assembly
from omni_rl.testing.model import assembled

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}


@pytest.fixture(scope="session")
def folder(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random StableDiffusion3Pipeline."""
    if str(checkout / "core/tests") not in sys.path:
        sys.path.append(str(checkout / "core/tests"))
    import tiny_pipelines

    built: Path = tiny_pipelines.build("StableDiffusion3Pipeline", tmp_path_factory.mktemp("sd3"))
    return built


@pytest.fixture(scope="module")
def parts(folder: Path) -> Assembly:
    """A run's parts around the plugin."""
    return assembled(folder, omni_rl_sd3, CALL, ("a", "b"))
