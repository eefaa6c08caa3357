from __future__ import annotations
import sys; sys.path.insert(0,"/work/main/core/tests")
import pytest
from omni_rl.testing.model import ModelContract
import omni_rl_qwen_image
import tiny_pipelines
class TestA(ModelContract):
    @pytest.fixture(scope="module")
    @classmethod
    def pipeline_folder(cls, tmp_path_factory): return tiny_pipelines.build("QwenImagePipeline", tmp_path_factory.mktemp("tiny"))
    @pytest.fixture(scope="module")
    @classmethod
    def plugin(cls): return omni_rl_qwen_image
    @pytest.fixture(scope="module")
    @classmethod
    def call(cls): return tiny_pipelines.CALLS["QwenImagePipeline"]
