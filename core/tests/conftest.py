"""Tiny pipelines of real architectures, built once per session, and the modules that build them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_pipelines, toy_two_streams: diffusers imports the latter by name


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_folder("FluxPipeline")``: the folder of that architecture's tiny pipeline."""
    import tiny_pipelines

    return tiny_pipelines.built_once(tmp_path_factory.mktemp)
