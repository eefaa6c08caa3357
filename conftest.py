"""Settings for every test of the workspace. The tiers (`ci`, `full`) are described in the root pyproject.toml."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, and inherited by subprocesses
os.environ.pop("OMNI_RL_DISABLE", None)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of this checkout."""
    return Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_folder("FluxPipeline")``: the folder of that architecture's tiny random pipeline."""
    from omni_rl_tiny import pipelines

    return pipelines.built_once(tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``picture(number, (width, height))``: the path of a file."""
    from omni_rl_tiny.pipelines import pictures

    folder = tmp_path_factory.mktemp("pictures")
    return lambda number, size: str(folder / pictures.picture(folder / f"{number}.png", size, number))
