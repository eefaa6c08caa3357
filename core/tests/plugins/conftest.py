"""Fake distributions, one folder per fate under ``fakes/``, as they lie in a real environment."""

from __future__ import annotations

from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"


@pytest.fixture
def install(monkeypatch):
    """Make fake distributions importable and discoverable, by folder name; returns the folder that holds them all."""
    monkeypatch.delenv("OMNI_RL_DISABLE", raising=False)

    def _install(*names):
        for name in names:
            monkeypatch.syspath_prepend(str(FAKES / name))
        return FAKES

    return _install
