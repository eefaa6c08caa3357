"""LoRA files in the formats of their readers. Each is applied at full strength by a reader that ignores the header.

alpha / rank is multiplied into B, and alpha is the rank: readers that find no alpha take the factor 1, which is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from omni_rl.contracts.schema import Lora
from omni_rl.contracts.types import Tensors
from omni_rl.model.weights import ADAPTER_SIDES
from omni_rl_export.source import Source

LoraFormat = Literal["diffusers", "peft", "comfyui", "kohya"]

DIFFUSERS_NAMES_IN_COMFYUI = ("AuraFlow", "Flux", "PixArt", "QwenImage", "StableDiffusion3", "ZImage")
"""Pipelines for which ComfyUI knows diffusers' names of the layers, under the prefix ``transformer.``."""

WAN_NAMES = (
    (r"^blocks\.(\d+)\.attn1\.", r"blocks.\1.self_attn."),
    (r"^blocks\.(\d+)\.attn2\.add_([kv])_proj$", r"blocks.\1.cross_attn.\2_img"),
    (r"^blocks\.(\d+)\.attn2\.", r"blocks.\1.cross_attn."),
    (r"_attn\.to_([qkv])$", r"_attn.\1"),
    (r"_attn\.to_out\.0$", r"_attn.o"),
    (r"\.ffn\.net\.0\.proj$", r".ffn.0"),
    (r"\.ffn\.net\.2$", r".ffn.2"),
    (r"^condition_embedder\.text_embedder\.linear_1$", r"text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2$", r"text_embedding.2"),
    (r"^condition_embedder\.time_embedder\.linear_1$", r"time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2$", r"time_embedding.2"),
    (r"^condition_embedder\.time_proj$", r"time_projection.1"),
    (r"^proj_out$", r"head.head"),
)
"""Layers of Wan's denoiser: diffusers' name, and the name in the published checkpoints, which ComfyUI uses."""


@dataclass(frozen=True)
class Layer:
    """The adapter of one layer, with alpha / rank multiplied into B.

    Attributes:
        a: (rank, inputs).
        b: (outputs, rank).
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        """Also its alpha."""
        return len(self.a)


def layers_of(tensors: Tensors, lora: Lora, dtype: torch.dtype) -> dict[str, Layer]:
    """The adapters by the name of their layer; B is scaled in fp32, then both are rounded to ``dtype``."""
    side_a, side_b = ADAPTER_SIDES
    found = {}
    for name in sorted(key.removesuffix(side_b) for key in tensors if key.endswith(side_b)):
        a, b = tensors[name + side_a].float(), tensors[name + side_b].float() * (lora.alpha / lora.rank)
        found[name] = Layer(a.to(dtype).contiguous(), b.to(dtype).contiguous())
    return found


def diffusers_tensors(layers: Mapping[str, Layer]) -> Tensors:
    """Named as PEFT and diffusers name them."""
    side_a, side_b = ADAPTER_SIDES
    return {name + side: m for name, each in layers.items() for side, m in ((side_a, each.a), (side_b, each.b))}


def adapter_settings(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """What builds the adapter. No more than that: PEFT refuses fields of another release."""
    rank = next(iter(layers.values())).rank
    return {"r": rank, "lora_alpha": rank, "target_modules": sorted(layers)}


def write_peft(folder: Path, source: Source, component: str, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """A folder for ``PeftModel.from_pretrained``; a second denoiser has a folder of its own inside."""
    del source
    inside = folder if component == "transformer" else folder / component
    inside.mkdir(exist_ok=True)
    LoraConfig(**adapter_settings(layers)).save_pretrained(str(inside))
    names = {name: f"base_model.model.{name}" for name in layers}
    tensors = {names[name] + key.removeprefix(name): m for name in layers for key, m in _sides(name, layers).items()}
    file = inside / "adapter_model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    return _entry(folder, file, component, names)


def write_comfyui(folder: Path, source: Source, component: str, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """A file for ComfyUI: ``PREFIX.LAYER.lora_A.weight``, ``lora_B.weight`` and ``alpha``."""
    names = {name: comfyui_name(source.resolved.architecture, name) for name in layers}
    tensors = {
        names[name] + key.removeprefix(name): m for name in layers for key, m in _sides(name, layers).items()
    } | {f"{names[name]}.alpha": torch.tensor(float(each.rank)) for name, each in layers.items()}
    return _entry(folder, _save(folder, "comfyui", component, tensors), component, names)


def comfyui_name(architecture: str, layer: str) -> str:
    """The name under which ComfyUI looks for a layer's adapter."""
    if architecture.startswith(DIFFUSERS_NAMES_IN_COMFYUI):
        return f"transformer.{layer}"
    if architecture.startswith("Wan"):
        for pattern, name in WAN_NAMES:
            layer = re.sub(pattern, name, layer)
    return f"diffusion_model.{layer}"


def write_kohya(folder: Path, source: Source, component: str, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """A file in kohya's format: ``lora_unet_LAYER.lora_down.weight``, ``lora_up.weight`` and ``alpha``."""
    wan = source.resolved.architecture.startswith("Wan")  # its readers know the names of the published checkpoints
    plain = {n: comfyui_name("Wan", n).removeprefix("diffusion_model.") if wan else n for n in layers}
    names = {name: f"lora_unet_{text.replace('.', '_')}" for name, text in plain.items()}
    tensors = {}
    for name, each in layers.items():
        tensors[f"{names[name]}.lora_down.weight"] = each.a
        tensors[f"{names[name]}.lora_up.weight"] = each.b
        tensors[f"{names[name]}.alpha"] = torch.tensor(float(each.rank))
    return _entry(folder, _save(folder, "kohya", component, tensors), component, names)


def _sides(name: str, layers: Mapping[str, Layer]) -> Tensors:
    return diffusers_tensors({name: layers[name]})


def _save(folder: Path, kind: str, component: str, tensors: Tensors) -> Path:
    second = "" if component == "transformer" else f"_{component}"
    file = folder / f"{kind}_lora{second}.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    return file


def _entry(folder: Path, file: Path, component: str, names: Mapping[str, str]) -> dict[str, Any]:
    """What ``reproduce.py`` needs to apply the file: the names in it, by the name of the layer."""
    return {"file": file.relative_to(folder).as_posix(), "component": component, "names": dict(names)}


WRITERS: Mapping[str, Callable[[Path, Source, str, Mapping[str, Layer]], dict[str, Any]]] = MappingProxyType(
    {"peft": write_peft, "comfyui": write_comfyui, "kohya": write_kohya}
)
"""Formats beside diffusers' own, which :mod:`omni_rl_export.weights` writes with ``save_lora_weights``."""
