"""Denoisers that are loaded in the dtype of their files, and converted later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from omni_rl.model.loading import load_model
from omni_rl.model.stored_dtype import stored_dtype

CPU = torch.device("cpu")


def rewrite(folder, convert) -> None:
    """Store the weights of the denoiser again, each as ``convert(name, tensor)``."""
    for file in (folder / "transformer").glob("*.safetensors"):
        tensors = load_file(file)
        save_file({name: convert(name, tensor) for name, tensor in tensors.items()}, file, {"format": "pt"})


@pytest.fixture(params=["QwenImagePipeline", "WanPipeline", "FluxPipeline"])
def folder(request, tiny_folder, tmp_path):
    """A tiny pipeline with a denoiser in bf16."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_folder(request.param), copy)
    rewrite(copy, lambda _, tensor: tensor.bfloat16())
    return copy


def held(denoiser: nn.Module) -> dict[str, torch.Tensor]:
    """All tensors of a module, also those that are neither parameters nor buffers, such as tables of positions."""
    found = dict(denoiser.state_dict()) | dict(denoiser.named_buffers())
    for name, module in denoiser.named_modules():
        found |= {f"{name}.{key}": value for key, value in vars(module).items() if isinstance(value, torch.Tensor)}
    return found


def test_a_converted_denoiser_is_that_of_an_ordinary_load(folder):
    """Also what the network computes when it is made is not rounded to bf16."""
    stored = load_model(folder, device=CPU, precision="bf16", full=True, as_stored=True)
    ordinary = load_model(folder, device=CPU, precision="bf16", full=True)
    denoiser, expected = stored.denoisers["transformer"], ordinary.denoisers["transformer"]
    assert torch.bfloat16 in {parameter.dtype for parameter in denoiser.parameters()}
    nn.Module.to(denoiser, torch.float32)
    found, wanted = held(denoiser), held(expected)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    assert denoiser.config == expected.config
    assert type(denoiser) is type(expected)
    assert not denoiser.training


@pytest.mark.parametrize("folder", ["QwenImagePipeline"], indirect=True)
def test_only_one_narrower_dtype_is_kept(folder):
    """Tensors of several dtypes are loaded in fp32, which holds all of them."""
    assert stored_dtype(folder / "transformer", torch.float32) is torch.bfloat16
    rewrite(folder, lambda name, tensor: tensor.float() if name.endswith("bias") else tensor)
    assert stored_dtype(folder / "transformer", torch.float32) is torch.float32
    model = load_model(folder, device=CPU, precision="fp32", full=True, as_stored=True)
    assert {parameter.dtype for parameter in model.denoisers["transformer"].parameters()} == {torch.float32}


@pytest.mark.parametrize("folder", ["QwenImagePipeline"], indirect=True)
def test_weights_are_not_copied(folder):
    """They share the pages of their file: reading the file again costs no memory of the process."""
    model = load_model(folder, device=CPU, precision="bf16", full=False, as_stored=True)
    first = next(model.denoisers["transformer"].parameters())
    begin, end = first.data_ptr(), first.data_ptr() + first.nbytes
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    files = [line[-1] for line in maps if int(line[0].split("-")[0], 16) <= begin < int(line[0].split("-")[1], 16)]
    assert end > begin
    assert files[0].endswith(".safetensors")
