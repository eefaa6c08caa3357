"""A diffusers pipeline in memory, with what omni-rl needs to know about it."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from transformers import PreTrainedModel

from omni_rl.errors import ModelError

DENOISER_PREFIXES = ("transformer", "unet")
"""Pipeline components whose name starts so predict velocities; diffusers has no other convention."""


@dataclass
class LoadedModel:
    """What model hooks receive.

    Attributes:
        pipe: the diffusers pipeline; its components are the ones that sample and that train.
        architecture: ``model_index.json::_class_name``.
        path: the folder it was loaded from.
        device: where it computes.
        dtype: what the denoiser is told to compute in.
        autocast: weights are fp32 masters and ``dtype`` is reached through autocast (full fine-tuning in bf16).
        offload: encoders and decoders live on the CPU while they are not used.
        hooks: the run's dispatch; core's default hooks call the others through it.
        memo: whatever an adapter computed once (schedules, shapes); never weights.
        counts: calls of conditioning encoders, by component; replay must not add to them.
    """

    pipe: DiffusionPipeline
    architecture: str
    path: Path
    device: torch.device
    dtype: torch.dtype
    autocast: bool = False
    offload: bool = False
    hooks: Any = None
    memo: dict[Any, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def input_dtype(self) -> torch.dtype:
        """What embeddings are cast to before the denoiser sees them; autocast does the rest for fp32 masters."""
        return torch.float32 if self.autocast else self.dtype

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every component that is a module, by name."""
        return {n: m for n, m in self.pipe.components.items() if isinstance(m, nn.Module)}

    @property
    def denoisers(self) -> dict[str, nn.Module]:
        """The components that predict velocities, by name (two for two-expert models)."""
        return {n: m for n, m in self.modules.items() if n.startswith(DENOISER_PREFIXES)}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by canonical name: ``<component>.<diffusers parameter name>``."""
        named = ((f"{c}.{n}", p) for c, m in self.denoisers.items() for n, p in m.named_parameters())
        return {n: p for n, p in named if p.requires_grad}

    def argument(self, call: Mapping[str, Any], name: str) -> Any:
        """An argument of the pipeline's ``__call__``: as ``call`` has it, otherwise by the pipeline's own default."""
        return call[name] if name in call else _arguments(type(self.pipe).__call__)[name].default

    def compute(self) -> contextlib.AbstractContextManager[Any]:
        """The precision context that rollout and replay share."""
        if not self.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @contextlib.contextmanager
    def encoders_on_device(self) -> Iterator[None]:
        """Bring encoders and decoders to the device while the context lasts, when they are offloaded."""
        waiting = [m for n, m in self.modules.items() if _waits(self, n)]
        _move(waiting, self.device)
        try:
            yield
        finally:
            _move(waiting, torch.device("cpu"))


def load_model(
    path: Path, *, device: torch.device, precision: str, full: bool, offload: bool = False, hub: str | None = None
) -> LoadedModel:
    """Load a pipeline folder (or, with ``hub``, the hub id whose ``model_index.json`` lies there) for training.

    Weights come from safetensors only; remote code is never run. ``full`` with bf16 keeps fp32 masters in the denoiser
    and reaches bf16 through autocast; otherwise all weights are in ``precision``.

    Raises:
        ModelError: the folder is not a pipeline that diffusers can load, or none that omni-rl can train.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    autocast = full and dtype is torch.bfloat16
    dtypes = {"default": dtype} | (dict.fromkeys(_denoiser_names(path), torch.float32) if autocast else {})
    pipe = _from_pretrained(hub or str(path), dtypes, local=hub is None)
    pipe.set_progress_bar_config(disable=True)
    return from_pipe(pipe, path=path, device=device, dtype=dtype, autocast=autocast, offload=offload)


def from_pipe(
    pipe: DiffusionPipeline,
    *,
    path: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    offload: bool = False,
) -> LoadedModel:
    """Take a pipeline that is in memory: freeze it, put it into eval mode and on ``device``. Arguments as the fields.

    Raises:
        ModelError: it has no denoiser, or its scheduler does not integrate a velocity.
    """
    model = LoadedModel(pipe, type(pipe).__name__, path, device, dtype, autocast, offload)
    if not model.denoisers:
        raise ModelError(f"{path}: {model.architecture} has no component named transformer* or unet* to train")
    _check_flow_matching(model)
    for module in model.modules.values():
        module.requires_grad_(False).eval()
    _place(model)
    _count_encoder_calls(model)
    return model


@lru_cache
def _arguments(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _check_flow_matching(model: LoadedModel) -> None:
    scheduler = getattr(model.pipe, "scheduler", None)
    if scheduler is None:
        raise ModelError(f"{model.architecture} has no scheduler, so there is no schedule to follow")
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind != "flow_prediction":
        raise ModelError(
            f"{model.architecture} with {type(scheduler).__name__} predicts {kind!r}, not a flow-matching velocity",
            "omni-rl trains flow-matching pipelines; choose another model or scheduler",
        )


def _from_pretrained(source: str, dtypes: Mapping[str, torch.dtype], local: bool) -> DiffusionPipeline:
    try:
        return DiffusionPipeline.from_pretrained(
            source, dtype=dict(dtypes), use_safetensors=True, local_files_only=local
        )
    except (OSError, ValueError, KeyError, AttributeError, ImportError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{source}: diffusers cannot load this pipeline: {reason}", "check model.path") from error


def _denoiser_names(path: Path) -> list[str]:
    index = json.loads((path / "model_index.json").read_text())
    return [name for name in index if name.startswith(DENOISER_PREFIXES)]


def _place(model: LoadedModel) -> None:
    for name, module in model.modules.items():
        module.to("cpu" if _waits(model, name) else model.device)
    _pin_execution_device(model.pipe, model.device)


def _waits(model: LoadedModel, name: str) -> bool:
    """Whether a component is on the CPU while it is not used: encoders and decoders, not what stands between them and
    the denoiser, which pipelines call in every step.
    """
    module = model.modules[name]
    codes = isinstance(module, PreTrainedModel) or hasattr(module, "encode") or hasattr(module, "decode")
    return model.offload and codes and name not in model.denoisers


def _pin_execution_device(pipe: DiffusionPipeline, device: torch.device) -> None:
    """Say where the pipeline computes. diffusers searches all modules for it in every call, which costs as much as a
    small denoiser, and takes the first component's device: with offloaded encoders that would be the CPU.
    """
    cls = type(pipe)
    fixed = property(lambda self: device)
    pipe.__class__ = type(
        cls.__name__, (cls,), {"_execution_device": fixed, "device": fixed, "__module__": cls.__module__}
    )


def _move(modules: list[nn.Module], device: torch.device) -> None:
    for module in modules:
        module.to(device)


def _count_encoder_calls(model: LoadedModel) -> None:
    """Count forwards of every conditioning encoder, so that the gate can prove that replay makes none.

    Text and image encoders are transformers' models; of diffusers' own components, autoencoders have an encoder. What
    else a pipeline calls inside its loop (connectors, a duration head) belongs to the velocity.
    """
    for name, module in model.modules.items():
        encoder = module if isinstance(module, PreTrainedModel) else getattr(module, "encoder", None)
        if name not in model.denoisers and isinstance(encoder, nn.Module):
            model.counts[name] = 0
            encoder.register_forward_pre_hook(lambda *_, name=name: _add_one(model.counts, name))


def _add_one(counts: dict[str, int], name: str) -> None:
    counts[name] += 1


def frozen(call: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """A pipeline's arguments as a key of ``LoadedModel.memo``."""
    return tuple(sorted((name, repr(value)) for name, value in call.items()))


def lossless(value: torch.Tensor) -> torch.Tensor:
    """fp32, so that rollout and replay start from the same tensor whatever the encoder's precision."""
    return value.float() if value.is_floating_point() else value
