"""Settings for every test of the workspace. The tiers (`ci`, `full`) are described in the root pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, and inherited by subprocesses
os.environ.pop("OMNI_RL_DISABLE", None)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of this checkout."""
    return Path(__file__).parent


@pytest.fixture(scope="session")
def tiny(checkout: Path) -> ModuleType:
    """The builders of tiny random pipelines."""
    if str(checkout / "core/tests") not in sys.path:
        sys.path.append(str(checkout / "core/tests"))
    import tiny_pipelines

    return tiny_pipelines
