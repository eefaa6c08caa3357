from __future__ import annotations

import pytest

import omni_rl_ltx2 as ltx2
from omni_rl.testing.model import ModelContract

CALL = {"height": 32, "width": 64, "num_frames": 5, "max_sequence_length": 64, "negative_prompt": "hello"}
PERTURBED = {**CALL, "spatio_temporal_guidance_blocks": [1]}


class TestGuided(ModelContract):
    """With the pipeline's own guidance."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder):
        return folder

    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls):
        return ltx2

    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        return PERTURBED


class TestPerturbed(TestGuided):
    """LTX-2.3, where all kinds of guidance count."""

    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, folder_of_2_3):
        return folder_of_2_3


class TestUnguided(TestGuided):
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls):
        off = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
        return {**CALL, **off, **{f"audio_{name}": value for name, value in off.items()}, "negative_prompt": None}
