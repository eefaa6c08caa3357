"""A loaded diffusers pipeline."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import nn
from transformers import PreTrainedModel

K = TypeVar("K")
V = TypeVar("V")

DENOISER_PREFIXES = ("transformer", "unet")
"""Name prefixes of the pipeline components that predict velocities, by the convention of diffusers."""


@dataclass
class LoadedModel:
    """A diffusers pipeline with its device, precision and hooks; model hooks receive it.

    Attributes:
        pipe: the diffusers pipeline; rollout and training use the same components.
        architecture: ``model_index.json::_class_name``.
        path: the folder from which it was loaded.
        device: the device on which it computes.
        dtype: the precision in which the denoiser computes.
        autocast: True: weights are fp32 master weights, and autocast computes in ``dtype`` (full fine-tuning in bf16).
        offload: True: encoders and decoders are kept on the CPU while they are not used.
        sharded: True: each rank holds a part of the denoisers' weights, so that all ranks must run equally many
            forwards; parameters are DTensors.
        in_step: with sharded weights, returns a context in which each rank may run another number of forwards. All
            ranks must open and leave it together, and inside do nothing else together.
        hooks: the run's hooks; core's default hooks call other hooks through it.
        caches: the values that each :class:`Cache` holds for this model.
        counts: number of calls of each conditioning encoder, by component; replay must not call any.
    """

    pipe: DiffusionPipeline
    architecture: str
    path: Path
    device: torch.device
    dtype: torch.dtype
    autocast: bool = False
    offload: bool = False
    sharded: bool = False
    in_step: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    hooks: Any = None
    caches: dict[Any, dict[Any, Any]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype of embeddings that are passed to the denoiser: fp32 under autocast, otherwise ``dtype``."""
        return torch.float32 if self.autocast else self.dtype

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The pipeline components that are torch modules, by name."""
        return {n: m for n, m in self.pipe.components.items() if isinstance(m, nn.Module)}

    @property
    def denoisers(self) -> dict[str, nn.Module]:
        """The components that predict velocities, by name (two components if the model has two experts)."""
        return {n: m for n, m in self.modules.items() if n.startswith(DENOISER_PREFIXES)}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by canonical name: ``<component>.<diffusers parameter name>``."""
        named = ((f"{c}.{n}", p) for c, m in self.denoisers.items() for n, p in m.named_parameters())
        return {n: p for n, p in named if p.requires_grad}

    def argument(self, call: Mapping[str, Any], name: str) -> Any:
        """An argument of the pipeline's ``__call__``: the value in ``call``, otherwise the pipeline's default."""
        return call[name] if name in call else _arguments(type(self.pipe).__call__)[name].default

    def takes(self, name: str) -> bool:
        """Whether the pipeline's ``__call__`` has an argument of this name."""
        return name in _arguments(type(self.pipe).__call__)

    def compute(self) -> contextlib.AbstractContextManager[Any]:
        """The autocast context, which rollout and replay must both use; without ``autocast`` an empty context."""
        if not self.autocast:
            return contextlib.nullcontext()
        # Weights in bf16 are kept until the context ends. Sharded ones must not be: they do not fit into the memory.
        return torch.autocast(self.device.type, self.dtype, cache_enabled=not self.sharded)

    @property
    def offloaded(self) -> dict[str, nn.Module]:
        """The components that are kept on the CPU while they are not used, by name."""
        return {n: m for n, m in self.modules.items() if self.offload and offloadable(n, type(m))}

    @contextlib.contextmanager
    def encoders_on_device(self) -> Iterator[None]:
        """Move the offloaded components to the device while the context is open."""
        offloaded = self.offloaded
        _move(offloaded, self.device)
        try:
            yield
        finally:
            _move(offloaded, torch.device("cpu"))


@lru_cache
def _arguments(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def offloadable(name: str, kind: type) -> bool:
    """Whether ``train.offload`` applies to a component, by its name and class: to encoders and decoders.

    Connectors run in every step and stay on the device, as denoisers do.
    """
    codes = issubclass(kind, PreTrainedModel) or hasattr(kind, "encode") or hasattr(kind, "decode")
    return codes and not name.startswith(DENOISER_PREFIXES)


def _move(modules: Mapping[str, nn.Module], device: torch.device) -> None:
    for module in modules.values():
        module.to(device)


@dataclass(frozen=True, eq=False)
class Cache(Generic[K, V]):
    """Values that are computed once per model and key: schedules and shapes, never weights.

    Declared once, at the top of the module that computes them: ``_TABLES = Cache[TableKey, SigmaTable]()``.
    """

    def of(self, model: LoadedModel) -> dict[K, V]:
        """The values that are stored for this model, by key."""
        values: dict[K, V] = model.caches.setdefault(self, {})
        return values

    def get(self, model: LoadedModel, key: K, compute: Callable[[], V]) -> V:
        """The value of ``key``; calls ``compute`` if it is not stored yet."""
        values = self.of(model)
        if key not in values:
            values[key] = compute()
        return values[key]
