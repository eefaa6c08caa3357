"""A pipeline's class, those of its components, and its denoisers without weights, from configuration files alone."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import diffusers.pipelines
import torch
import transformers
from torch import nn

from omni_rl.contracts.call import INDEX
from omni_rl.contracts.input_files import is_file
from omni_rl.contracts.model import DENOISER_PREFIXES
from omni_rl.errors import ModelError
from omni_rl.model.boundary import foreign


def pipeline_class(architecture: str, folder: Path) -> type:
    """The class that will load ``folder``.

    Raises:
        ModelError: the installed diffusers has none of this name.
    """
    cls = getattr(diffusers, architecture, None)
    if inspect.isclass(cls) and issubclass(cls, diffusers.DiffusionPipeline):
        return cls
    what = f"{folder}: diffusers {diffusers.__version__} has no pipeline {architecture}"
    raise ModelError(what, "check _class_name in its model_index.json, or upgrade diffusers")


def denoisers(folder: Path) -> dict[str, nn.Module]:
    """The denoisers by name, on the meta device: modules of the real names and shapes, without weights.

    Empty when one of them has no ``config.json`` in ``folder`` (the snapshot of a hub model may hold the index alone),
    or is of a class that diffusers does not export.

    Raises:
        ModelError: a configuration cannot be read, or does not fit its class.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8-sig"))
    named = {n: each for n, each in index.items() if n.startswith(DENOISER_PREFIXES) and isinstance(each, list)}
    classes: dict[str, Any] = {n: getattr(diffusers, cls, None) for n, (_, cls) in named.items() if cls is not None}
    if not all(cls is not None and is_file(folder / n / cls.config_name) for n, cls in classes.items()):
        return {}
    return {name: _built(cls, folder / name) for name, cls in classes.items()}


def component_classes(folder: Path) -> dict[str, type]:
    """The class of every component that the index names, by the component's name; ``object`` if it is not installed."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8-sig"))
    named = {n: each for n, each in index.items() if isinstance(each, list) and len(each) == 2}
    return {n: _class(*each) for n, each in named.items() if all(isinstance(part, str) for part in each)}


def _class(library: str, name: str) -> type:
    known: dict[str, Any] = {"diffusers": diffusers, "transformers": transformers}
    home = known.get(library) or getattr(diffusers.pipelines, library, sys.modules.get(library))
    found = getattr(home, name, None) or getattr(diffusers, name, None)
    return found if isinstance(found, type) else object


def _built(cls: Any, folder: Path) -> nn.Module:
    with foreign(f"{folder}: this is no configuration of {cls.__name__}", "check model.path"), torch.device("meta"):
        module: nn.Module = cls.from_config(cls.load_config(folder))
    return module
