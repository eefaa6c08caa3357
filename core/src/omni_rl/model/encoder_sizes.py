"""How many bytes text encoders, VAE and other components beside the denoisers take, from the headers of their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rl.contracts.input_files import is_file
from omni_rl.contracts.model import DENOISER_PREFIXES, offloadable
from omni_rl.model.folder import shards
from omni_rl.model.outline import component_classes
from omni_rl.model.safetensors_files import Stored, tensors

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one number of the dtypes that loading converts to the run's precision; others stay as they are stored."""

_STEMS = ("model", "diffusion_pytorch_model")


@dataclass(frozen=True)
class Size:
    """The size of a component in memory, in bytes; ``offloadable``: ``train.offload`` applies to it."""

    component: str
    size: int
    offloadable: bool


def encoder_sizes(folder: Path, precision: str) -> list[Size]:
    """The components that are no denoisers and whose files are in ``folder``. No tensor is read.

    Raises:
        ModelError: a file is not whole, or an index does not name the shards beside it.
    """
    kinds = {n: kind for n, kind in component_classes(folder).items() if not n.startswith(DENOISER_PREFIXES)}
    sizes = [Size(n, _size(folder / n, kind, precision), offloadable(n, kind)) for n, kind in kinds.items()]
    return [each for each in sizes if each.size]


def kept_in_fp32(kind: Any, parameter: str) -> bool:
    """Whether a model of diffusers or transformers keeps this parameter in fp32 when it is loaded in bf16."""
    transformers = hasattr(kind, "_keep_in_fp32_modules_strict")  # its `_keep_in_fp32_modules` is about fp16
    kept = getattr(kind, "_keep_in_fp32_modules_strict" if transformers else "_keep_in_fp32_modules", None)
    return any(name in parameter.split(".") for name in kept or ())


def _size(component: Path, kind: type, precision: str) -> int:
    return sum(
        _loaded(each, 4 if precision == "fp32" or kept_in_fp32(kind, name) else 2)
        for file in _files(component)
        for name, each in tensors(file).items()
    )


def _loaded(stored: Stored, width: int) -> int:
    return stored.size // FLOATS[stored.dtype] * width if stored.dtype in FLOATS else stored.size


def _files(component: Path) -> Iterator[Path]:
    """The files that are loaded: one, or the shards that an index names; none of a variant."""
    for stem in _STEMS:
        file = component / f"{stem}.safetensors"
        index = component / f"{stem}.safetensors.index.json"
        if is_file(file):
            yield file
            return
        if is_file(index):
            yield from shards(index)
            return
