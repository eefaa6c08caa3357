"""Core's contract of engines, with the real one."""

from __future__ import annotations

import pytest

from omni_rl_testing.engine import EngineContract

pytestmark = pytest.mark.ci


class TestVllmOmni(EngineContract):
    """One engine for all tests; the last one closes it."""

    @pytest.fixture
    def parts(self, pair):
        parts = pair("QwenImagePipeline", False, step_execution="required", max_num_seqs=4).parts
        kept = {name: p.data.clone() for name, p in parts.model.parameters().items()}
        parts.sync(0)
        yield parts
        for name, parameter in parts.model.parameters().items():
            parameter.data = kept[name]
