"""Writes weights as files: a LoRA in the format of its reader, or a pipeline folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoModel

from omni_rl.contracts.call import INDEX
from omni_rl.contracts.schema import Lora
from omni_rl.contracts.types import Tensors
from omni_rl.errors import ModelError, UserError
from omni_rl.model.weights import ADAPTER_SIDES
from omni_rl_export.lora_files import WRITERS, Layer, LoraFormat, adapter_settings, diffusers_tensors, layers_of
from omni_rl_export.source import Source

SECOND = "transformer_2"
"""The second expert; ``load_lora_weights`` loads its LoRA from a separate file."""

_PICKLED = shutil.ignore_patterns("*.bin", "*.ckpt", "*.pt", "*.pth", "*.msgpack")


def write_lora(folder: Path, source: Source, dtype: torch.dtype, form: LoraFormat) -> list[dict[str, Any]]:
    """Write one file per denoiser, in the format of its reader.

    Returns:
        One entry per file: for ``diffusers`` the arguments of ``load_lora_weights``, for other formats the file, the
        denoiser, and the names in the file by layer.

    Raises:
        UserError: the run trained no LoRA, or diffusers cannot load a LoRA into this pipeline.
    """
    if source.lora is None:
        raise UserError("this run trained the whole denoiser, so there is no LoRA", "export it with --format pipeline")
    found = {name: layers_of(tensors, source.lora, dtype) for name, tensors in source.tensors().items()}
    if form == "diffusers":
        return _write_diffusers(folder, source, found)
    return [WRITERS[form](folder, source, name, layers) for name, layers in found.items()]


def _write_diffusers(folder: Path, source: Source, found: Mapping[str, Mapping[str, Layer]]) -> list[dict[str, Any]]:
    """Write with diffusers' own ``save_lora_weights``."""
    calls = []
    pipeline = _loader(source.resolved.architecture, list(found))
    for name, layers in found.items():
        second = name == SECOND
        file = "pytorch_lora_weights_2.safetensors" if second else "pytorch_lora_weights.safetensors"
        pipeline.save_lora_weights(
            folder,
            weight_name=file,
            # a second expert's file is identified by its name, not by tensor names
            **{f"{_first(pipeline)}_lora_layers": diffusers_tensors(layers)},
            **{f"{_first(pipeline)}_lora_adapter_metadata": adapter_settings(layers)},
        )
        calls.append({"weight_name": file, **({f"load_into_{SECOND}": True} if second else {})})
    return calls


def _loader(architecture: str, denoisers: list[str]) -> Any:
    """The pipeline's class, if it can load a LoRA into each of these denoisers."""
    pipeline: Any = getattr(diffusers, architecture, None)
    hint = "export the merged weights with --format pipeline, or the adapters with --format peft"
    if not hasattr(pipeline, "load_lora_weights"):
        raise UserError(f"diffusers' {architecture} has no load_lora_weights", hint)
    loaded = {_first(pipeline), SECOND} & set(pipeline._lora_loadable_modules)
    if not set(denoisers) <= loaded:
        other = ", ".join(sorted(set(denoisers) - loaded))
        raise UserError(f"load_lora_weights of diffusers' {architecture} cannot load into {other}", hint)
    return pipeline


def _first(pipeline: Any) -> str:
    """The component into which ``load_lora_weights`` loads."""
    return str(getattr(pipeline, "transformer_name", None) or pipeline.unet_name)


def write_pipeline(folder: Path, source: Source, base: Path, dtype: torch.dtype) -> None:
    """Copy the base model's folder and replace its denoisers by the run's; LoRA is merged in fp32.

    Raises:
        CheckpointError: the checkpoint has no such weights. ModelError: the base model cannot be loaded.
    """
    found = source.tensors()
    index = json.loads((base / INDEX).read_text(encoding="utf-8"))
    shutil.copy(base / INDEX, folder)
    for name in index:
        if name not in found and (base / name).is_dir():
            shutil.copytree(base / name, folder / name, ignore=_PICKLED)
    for name, tensors in found.items():
        denoiser = _load(base, name, dtype)
        _place(denoiser, tensors, source.lora)
        denoiser.register_to_config(_name_or_path=source.resolved.architecture)  # otherwise the folder on this disk
        denoiser.save_pretrained(folder / name, safe_serialization=True)


def _load(base: Path, name: str, dtype: torch.dtype) -> Any:
    try:
        return AutoModel.from_pretrained(
            str(base), subfolder=name, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"diffusers cannot load {base / name}: {error}") from error


def _place(denoiser: torch.nn.Module, tensors: Tensors, lora: Lora | None) -> None:
    parameters = dict(denoiser.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items() if lora is None else _merged(parameters, tensors, lora):
            parameters[name].copy_(value)


def _merged(parameters: Mapping[str, torch.Tensor], tensors: Tensors, lora: Lora) -> Iterator[tuple[str, torch.Tensor]]:
    """Merged weights W + alpha / rank * B A, in fp32, by the name of W."""
    side_a, side_b = ADAPTER_SIDES
    for name in [n.removesuffix(side_b) for n in tensors if n.endswith(side_b)]:
        delta = tensors[name + side_b].float() @ tensors[name + side_a].float()
        yield f"{name}.weight", parameters[f"{name}.weight"].float() + lora.alpha / lora.rank * delta
