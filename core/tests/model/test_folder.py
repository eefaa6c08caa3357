"""Hostile and incomplete model folders are refused before anything of them is loaded."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rl.errors import ModelError
from omni_rl.model.folder import check_folder
from omni_rl.model.loading import load_model
from omni_rl_tiny import tiny_random

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SHARDS = "transformer/diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_random("QwenImagePipeline"), tmp_path / "model"))


def index(folder: Path, **entries: object) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def shard(folder: Path, name: str) -> None:
    (folder / SHARDS).write_text(json.dumps({"metadata": {}, "weight_map": {"w": name}}))


def header(folder: Path, length: int, text: bytes = b"{}") -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + text)


def renamed(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / "transformer" / name)


def config(folder: Path, **entries: object) -> None:
    file = folder / "transformer/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def fifo(folder: Path) -> None:
    (folder / "transformer/config.json").unlink()
    os.mkfifo(folder / "transformer/config.json")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "module": (lambda f: index(f, vae=["evil_module", "Evil"]), "not the name of a class of diffusers"),
    "os": (lambda f: index(f, vae=["os", "system"]), "not the name of a class of diffusers"),
    "dotted": (lambda f: index(f, vae=["transformers.utils", "X"]), "not the name of a class of diffusers"),
    "function": (lambda f: index(f, vae=["transformers", "pipeline"]), "has no such class"),
    "own class": (lambda f: index(f, _class_name=["mine", "Mine"]), "code of a model folder is not run"),
    "left out": (lambda f: index(f, vae=[None, None]), "the component vae is left out"),
    "absent": (lambda f: shutil.rmtree(f / "vae"), "has no folder vae"),
    "bin": (lambda f: shard(f, "x.bin"), "weights are read from safetensors only"),
    "outside": (lambda f: shard(f, "../../outside.safetensors"), "outside the folder"),
    "absolute": (lambda f: shard(f, "/etc/x.safetensors"), "outside the folder"),
    "no shards": (lambda f: (f / SHARDS).write_text('{"weight_map": {}}'), "has no weight_map"),
    "long shard": (lambda f: shard(f, "n" * 5000 + ".safetensors"), "not there"),
    "infinite": (lambda f: header(f, 32, b'{"x":{"data_offsets":[0,1e999]}}'), "header is damaged"),
    "long component": (lambda f: index(f, **{"x" * 300: ["diffusers", "AutoencoderKL"]}), "has no folder xxx"),
    "missing shard": (lambda f: shard(f, "x-00001-of-00002.safetensors"), "not there"),
    "header": (lambda f: header(f, 2**62), "its header claims 4611686018427387904"),
    "damaged": (lambda f: header(f, 2, b"[]"), "header is damaged"),
    "cut": (lambda f: os.truncate(f / WEIGHTS, 5000), "not a whole safetensors file"),
    "variant": (lambda f: renamed(f, "diffusion_pytorch_model.fp16.safetensors"), "variant='fp16'"),
    "only bin": (lambda f: renamed(f, "diffusion_pytorch_model.bin"), "no weights in safetensors"),
    "quantised": (lambda f: config(f, quantization_config={"quant_method": "torchao"}), "quantised \\(torchao\\)"),
    "layers": (lambda f: config(f, num_layers=10**9), "num_layers is 1000000000"),
    "deep": (lambda f: (f / "transformer/config.json").write_text("[" * 10**5), "nested too deeply"),
    "pipe": (fifo, "not a regular file"),
}


@pytest.mark.parametrize(("damage", "says"), FAULTS.values(), ids=FAULTS)
def test_a_damaged_folder(folder: Path, damage: Callable[[Path], object], says: str):
    damage(folder)
    with pytest.raises(ModelError, match=says):
        check_folder(folder)


def test_links_that_lie_in_the_folder_are_followed(folder: Path, tmp_path: Path):
    """As in the cache of the hub, where every file is a link to its content elsewhere."""
    (tmp_path / "blobs").mkdir()
    blob = (folder / WEIGHTS).rename(tmp_path / "blobs/abc")
    (folder / WEIGHTS).symlink_to(blob)
    check_folder(folder)
    blob.unlink()
    with pytest.raises(ModelError, match="its link leads nowhere"):
        check_folder(folder)


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_weights_that_are_missing_in_the_files_are_not_drawn_at_random(folder: Path, component: str):
    file = next((folder / component).glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(tensors)[3]
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="do not contain") as caught:
        load_model(folder, device=torch.device("cpu"), precision="fp32", full=True)
    assert name.rpartition(".layers.")[2] in caught.value.what
