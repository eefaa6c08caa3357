from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline

import omni_rl_qwen_image
from omni_rl.contracts.model import LoadedModel
from omni_rl_testing.model import assembled
from omni_rl_testing.parts import Parts
from omni_rl_tiny import pipelines


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random QwenImagePipeline, whose VAE scales its latents as the published one does: each channel its own."""
    built = pipelines.build("QwenImagePipeline", tmp_path_factory.mktemp("qwen-image"))
    config = built / "vae/config.json"
    scaling = {"latents_mean": [-0.8, -0.7, 0.3, 0.1], "latents_std": [2.8, 1.5, 0.7, 3.3]}
    config.write_text(json.dumps({**json.loads(config.read_text()), **scaling}))
    return built


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    """A run's parts around the plugin."""
    return assembled(folder, omni_rl_qwen_image, {"height": 16, "width": 32}, ("a", "b"))


@pytest.fixture
def model(parts: Parts) -> LoadedModel:
    return parts.model


@pytest.fixture(scope="session")
def upstream(folder: Path) -> QwenImagePipeline:
    """The same pipeline as diffusers loads it, never touched by omni-rl."""
    pipe = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe
