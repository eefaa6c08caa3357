from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from omni_rl.testing.assembly import Assembly
from omni_rl.testing.model import assembled
from omni_rl_flux import flux1

CALL = {"height": 16, "width": 24, "max_sequence_length": 64}


@pytest.fixture(scope="session")
def tiny_folder(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_folder("FluxPipeline")``: the folder of a tiny random pipeline."""
    if str(checkout / "core/tests") not in sys.path:
        sys.path.append(str(checkout / "core/tests"))
    import tiny_pipelines

    built: Callable[[str], Path] = tiny_pipelines.built_once(tmp_path_factory.mktemp)
    return built


@pytest.fixture(scope="session")
def media_pipelines(tiny_folder: Callable[[str], Path]) -> ModuleType:
    """The builders of tiny random pipelines that take pictures."""
    import media_pipelines

    return media_pipelines


@pytest.fixture(scope="session")
def kontext_folder(media_pipelines: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random FLUX.1 Kontext."""
    built: Path = media_pipelines.build("FluxKontextPipeline", tmp_path_factory.mktemp("kontext"))
    return built


@pytest.fixture(scope="session")
def picture(media_pipelines: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``picture(number, (width, height))``: the path of a file."""
    folder = tmp_path_factory.mktemp("pictures")
    return lambda number, size: str(folder / media_pipelines.picture(folder / f"{number}.png", size, number))


@pytest.fixture(scope="module")
def parts(tiny_folder: Callable[[str], Path]) -> Assembly:
    """A run's parts around the plugin."""
    return assembled(tiny_folder("FluxPipeline"), flux1, CALL, ("a", "b"))
