"""Core's contract of backends, with VeOmni's networks."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

from omni_rl.authoring.engine import from_pipe
from omni_rl_testing.backend import BackendContract
from omni_rl_veomni import VeOmniBackend

pytestmark = pytest.mark.ci


class TestVeOmni(BackendContract):
    tolerance = 1e-4  # micro-batches of these networks differ by more than those of the toy pipeline, in any backend

    @pytest.fixture
    def backend(self):
        return VeOmniBackend

    @pytest.fixture
    def make_model(self, tiny_folder):
        folder = tiny_folder("WanPipeline")  # in Qwen-Image some weights never train: those of the last block's text
        return lambda: from_pipe(DiffusionPipeline.from_pretrained(folder), path=folder, device=torch.device("cpu"))

    @pytest.fixture
    def call(self):
        return {"height": 16, "width": 16, "num_frames": 5}
