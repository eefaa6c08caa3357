"""The folder of the attacked runs, with its warm process, and a run that is half done.

The warm process takes longer to start than the cases of the ci tier: these are one group, so that one worker starts it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from forked import Server
from lab import Lab


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all tests of this process."""
    with Server() as server:
        lab = Lab(tmp_path_factory.mktemp("lab"), server)
        lab.furnish()
        yield lab


@pytest.fixture
def lab(furnished: Lab) -> Iterator[Lab]:
    """The lab. After each test: no case did what is forbidden, and nothing is left of the runs."""
    yield furnished
    assert furnished.forbidden() == []
    furnished.clear()


@pytest.fixture(scope="session")
def half(furnished: Lab) -> Path:
    """A run of four iterations that SIGTERM ended after two of them; three checkpoints are kept."""
    run = furnished.folder / "half"
    stop = {"step": "rollout", "number": 3, "do": "SIGTERM"}
    ended = furnished.call(furnished.train(run), ("runs.faults:at_step", stop))
    assert ended.code == 128 + 15, ended.said
    return run
