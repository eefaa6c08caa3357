"""Denoisers in the dtype of their files, for ranks that keep only parts of them.

The weights then are the mapped files, whose memory the processes of a machine share: none holds a copy of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from torch import nn

from omni_rl.model.safetensors_files import tensors

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


def stored_dtype(folder: Path, otherwise: torch.dtype) -> torch.dtype:
    """The dtype of all tensors in the safetensors files of ``folder``, if fp32 holds it exactly and they have only one;
    ``otherwise`` if not.

    Raises:
        ModelError: a file is not whole.
    """
    kinds = {each.dtype for file in folder.glob("*.safetensors") for each in tensors(file).values()}
    return _DTYPES.get(kinds.pop(), otherwise) if len(kinds) == 1 else otherwise


def compute_in_fp32(pipe: DiffusionPipeline, names: Iterable[str]) -> None:
    """Give the denoisers ``names`` fp32 where they compute something when they are made, such as tables of positions.

    Their weights keep the dtype that they were loaded in.
    """
    for name in names:
        loaded = cast(ModelMixin, getattr(pipe, name))
        with init_empty_weights():  # buffers get values
            made = cast(ModelMixin, cast(ConfigMixin, type(loaded)).from_config(loaded.config))
        made.register_to_config(_name_or_path=loaded.config.get("_name_or_path"))
        _move_weights(loaded, made)
        pipe.register_modules(**{name: made.eval()})


def _move_weights(source: nn.Module, target: nn.Module) -> None:
    """Parameters move; buffers that are stored in files are copied."""
    kept = source.state_dict()
    for name, module in source.named_modules():
        other = target.get_submodule(name)
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            other.register_parameter(key, parameter)
        for key, buffer in module.named_buffers(recurse=False):
            if f"{name}.{key}".removeprefix(".") in kept:
                other.get_buffer(key).copy_(buffer)
