from __future__ import annotations

import sys
from pathlib import Path

import pytest

import omni_rl_z_image
from omni_rl.testing.assembly import Assembly
from omni_rl.testing.model import assembled

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}


@pytest.fixture(scope="session")
def folder(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random ZImagePipeline."""
    if str(checkout / "core/tests") not in sys.path:
        sys.path.append(str(checkout / "core/tests"))
    import tiny_pipelines

    built: Path = tiny_pipelines.build("ZImagePipeline", tmp_path_factory.mktemp("z-image"))
    return built


@pytest.fixture(scope="module")
def parts(folder: Path) -> Assembly:
    """A run's parts around the plugin."""
    return assembled(folder, omni_rl_z_image, CALL, ("a", "b"))
