"""Exported adapters have full strength in every reader: the change of every weight is alpha / rank * B A."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from peft import PeftModel
from safetensors.torch import load_file

from omni_rl.run.start import Run
from omni_rl.storage import checkpoint
from omni_rl.storage.run_folder import RunDirectory
from omni_rl_export.export import Wanted, export_run
from omni_rl_export.lora_files import comfyui_name

RANK, ALPHA = 2, 6


@pytest.fixture
def base(trained: Run, tiny_folder) -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(tiny_folder("StableDiffusion3Pipeline"))


@pytest.fixture
def wanted(trained: Run) -> dict[str, torch.Tensor]:
    """Layer -> what the run adds to its weight."""
    path = checkpoint.latest(RunDirectory(trained.directory.path))
    kept = {
        k.removeprefix("transformer.").replace(".default", ""): v for k, v in checkpoint.load_group(path, "ema").items()
    }
    layers = [key.removesuffix(".lora_B.weight") for key in kept if key.endswith(".lora_B.weight")]
    return {n: ALPHA / RANK * kept[f"{n}.lora_B.weight"] @ kept[f"{n}.lora_A.weight"] for n in layers}


def exported(run: Run, form: str, output: Path) -> Path:
    return export_run(run.directory.path, output / form, Wanted(format=form, verify=False))


def assert_full_strength(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    moved = {name: delta for name, delta in wanted.items() if delta.any()}  # the last block's text has no gradient
    assert len(moved) > len(wanted) / 2
    for name, delta in moved.items():
        assert float((found[name] - delta).norm() / delta.norm()) < 1e-3, name


def comfyui_reader(file: Path, layers: list[str]) -> dict[str, torch.Tensor]:
    """As ComfyUI: known names of each layer, alpha if there is one, the header is not looked at."""
    tensors, found = load_file(file), {}
    for layer in layers:
        dashed = layer.replace(".", "_")
        for key in (f"transformer.{layer}", f"diffusion_model.{layer}", f"lora_unet_{dashed}", layer):
            for down, up in (("lora_A", "lora_B"), ("lora_down", "lora_up")):
                if f"{key}.{up}.weight" in tensors:
                    a, b = tensors.pop(f"{key}.{down}.weight"), tensors.pop(f"{key}.{up}.weight")
                    alpha = tensors.pop(f"{key}.alpha", None)
                    found[layer] = (1.0 if alpha is None else float(alpha) / len(a)) * b @ a
    assert not tensors, "keys that no layer takes"
    return found


@pytest.mark.parametrize("form", ["comfyui", "kohya", "diffusers"])
def test_a_reader_that_ignores_the_header(trained: Run, wanted, tmp_path: Path, form: str) -> None:
    (file,) = exported(trained, form, tmp_path).glob("*.safetensors")
    assert_full_strength(comfyui_reader(file, list(wanted)), wanted)
    assert any(key.endswith(".alpha") for key in load_file(file)) == (form != "diffusers")


def test_diffusers(trained: Run, base, wanted, tmp_path: Path) -> None:
    before = {n: base.transformer.get_submodule(n).weight.detach().clone() for n in wanted}
    base.load_lora_weights(exported(trained, "diffusers", tmp_path))
    base.fuse_lora()
    after = {n: base.transformer.get_submodule(n).base_layer.weight.detach() for n in wanted}
    assert_full_strength({n: after[n] - before[n] for n in wanted}, wanted)


def test_peft(trained: Run, base, wanted, tmp_path: Path) -> None:
    plain: SD3Transformer2DModel = copy.deepcopy(base.transformer).requires_grad_(False)
    folder = exported(trained, "peft", tmp_path)
    merged = PeftModel.from_pretrained(base.transformer, folder).merge_and_unload()
    found = {n: merged.get_submodule(n).weight.detach() - plain.get_submodule(n).weight for n in wanted}
    assert_full_strength(found, wanted)


@pytest.mark.ci
@pytest.mark.parametrize(
    "form", ["comfyui", pytest.param("peft", marks=pytest.mark.full), pytest.param("kohya", marks=pytest.mark.full)]
)
def test_the_pictures_are_the_runs(trained: Run, tmp_path: Path, form: str) -> None:
    said: list[str] = []
    export_run(trained.directory.path, tmp_path / form, Wanted(format=form), say=said.append)
    assert "differ from the run's by at most" in said[-1]


@pytest.mark.parametrize(
    ("architecture", "layer", "name"),
    [
        ("QwenImagePipeline", "transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_q"),
        ("FluxPipeline", "single_transformer_blocks.1.proj_mlp", "transformer.single_transformer_blocks.1.proj_mlp"),
        ("WanPipeline", "blocks.3.attn1.to_out.0", "diffusion_model.blocks.3.self_attn.o"),
        ("WanPipeline", "blocks.3.attn2.to_k", "diffusion_model.blocks.3.cross_attn.k"),
        ("WanImageToVideoPipeline", "blocks.3.attn2.add_k_proj", "diffusion_model.blocks.3.cross_attn.k_img"),
        ("WanPipeline", "blocks.3.ffn.net.0.proj", "diffusion_model.blocks.3.ffn.0"),
        ("LTXPipeline", "transformer_blocks.0.attn1.to_q", "diffusion_model.transformer_blocks.0.attn1.to_q"),
    ],
)
def test_names_of_comfyui(architecture: str, layer: str, name: str) -> None:
    assert comfyui_name(architecture, layer) == name
