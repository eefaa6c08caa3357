"""Configuration files alone give the pipeline's class and its denoisers' names and shapes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from model_cases import GUIDED

from omni_rl.errors import ModelError
from omni_rl.model import outline


@pytest.fixture
def described(tiny_folder, tmp_path):
    """``described("WanPipeline")``: a copy of the tiny pipeline without any weights."""

    def make(architecture: str):
        return shutil.copytree(
            tiny_folder(architecture), tmp_path / "pipeline", ignore=shutil.ignore_patterns("*.safetensors")
        )

    return make


@pytest.mark.parametrize("architecture", GUIDED)
def test_the_outline_has_the_names_and_shapes_of_the_real_denoisers(described, tiny_folder, architecture) -> None:
    folder = described(architecture)
    pipe = DiffusionPipeline.from_pretrained(tiny_folder(architecture))
    assert outline.pipeline_class(architecture, folder) is type(pipe)
    outlines = outline.denoisers(folder)
    real = {n: m for n, m in pipe.components.items() if n.startswith("transformer") and m is not None}
    assert outlines.keys() == real.keys()
    for name, module in outlines.items():
        assert {p.device for p in module.parameters()} == {torch.device("meta")}
        shapes, expected = ({n: p.shape for n, p in m.named_parameters()} for m in (module, real[name]))
        assert shapes == expected


def test_a_folder_that_holds_the_index_alone_has_no_outline(described) -> None:
    folder = described("StableDiffusion3Pipeline")
    (folder / "transformer/config.json").unlink()
    assert outline.denoisers(folder) == {}


def test_a_configuration_that_is_none(described) -> None:
    folder = described("StableDiffusion3Pipeline")
    file = folder / "transformer/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_layers": "many"}))
    with pytest.raises(ModelError, match=r"transformer: this is no configuration of SD3Transformer2DModel: "):
        outline.denoisers(folder)
    file.write_text("{")
    with pytest.raises(ModelError, match=r"transformer: this is no configuration of SD3Transformer2DModel: "):
        outline.denoisers(folder)


@pytest.mark.parametrize("name", ["PaintByMagicPipeline", "FlowMatchEulerDiscreteScheduler"])
def test_a_pipeline_that_diffusers_does_not_have(tmp_path, name) -> None:
    with pytest.raises(ModelError, match=rf"diffusers [\d.]+ has no pipeline {name}\n  check _class_name"):
        outline.pipeline_class(name, tmp_path)
