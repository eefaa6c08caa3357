"""The suite of ranks passes the backend torch and fails one test for each way to break the contract."""

from __future__ import annotations

import pytest

from omni_rl_testing.ranks import RanksContract

pytestmark = pytest.mark.full


class TestTorch(RanksContract):
    """With the toy pipeline."""
