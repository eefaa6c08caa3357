"""Every architecture with and without guidance."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy_two_streams
from model_cases import GUIDED, Case


@pytest.fixture(scope="session", params=[True, False], ids=["guided", "unguided"])
def guided(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="session", params=list(GUIDED))
def case(request: pytest.FixtureRequest, guided: bool, cases: Callable[[str, bool], Case]) -> Case:
    """Every architecture, with and without guidance."""
    return cases(request.param, guided)


@pytest.fixture(scope="session", params=list(GUIDED))
def guided_case(request: pytest.FixtureRequest, cases: Callable[[str, bool], Case]) -> Case:
    """Every architecture with guidance, where that makes no difference."""
    return cases(request.param, True)


@pytest.fixture(autouse=True)
def _third_party_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)  # DPM-Solver
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # FLUX under autocast
        yield


@pytest.fixture
def two_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the toy with image and audio, which ``load_model`` can load during the test."""
    toy_two_streams.register(monkeypatch)
    return toy_two_streams.build(tmp_path / "two-streams")
