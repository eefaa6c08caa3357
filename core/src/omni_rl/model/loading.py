"""Load a diffusers pipeline: frozen, in eval mode, on its device."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn
from transformers import PreTrainedModel

from omni_rl.contracts.call import INDEX
from omni_rl.contracts.model import DENOISER_PREFIXES, LoadedModel
from omni_rl.errors import ConfigError, ModelError
from omni_rl.model import whole_weights
from omni_rl.model.boundary import foreign
from omni_rl.model.folder import check_folder
from omni_rl.model.stored_dtype import compute_in_fp32, stored_dtype
from omni_rl.parallel.group import local_rank, world_size


def load_model(
    path: Path,
    *,
    device: torch.device,
    precision: str,
    full: bool,
    offload: bool = False,
    hub: str | None = None,
    as_stored: bool = False,
) -> LoadedModel:
    """Load a pipeline for training.

    Weights come from safetensors only; remote code is never run.

    Args:
        path: its folder.
        full: every weight of the denoiser trains. With bf16 its weights are kept in fp32, and autocast computes in
            bf16. Otherwise all weights are in ``precision``.
        hub: the hub id to load in place of ``path``, which then holds its ``model_index.json``.
        as_stored: denoisers stay on the CPU, and where fp32 is asked for, they keep the dtype of their files, if that
            is one that fp32 holds exactly. Their weights are the mapped files.

    Raises:
        ModelError: the folder is not a pipeline that diffusers can load, or none that omni-rl can train.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    autocast = full and dtype is torch.bfloat16
    source = path if hub is None else _downloaded(hub)
    check_folder(source)
    names = _denoiser_names(path)
    kept = torch.float32 if autocast else dtype
    loaded = dict.fromkeys(names, kept)
    if as_stored and kept is torch.float32:
        loaded = {name: stored_dtype(source / name, kept) for name in names}
    pipe = _from_pretrained(str(source), {"default": dtype} | loaded)
    compute_in_fp32(pipe, [name for name in names if loaded[name] is not kept])
    pipe.set_progress_bar_config(disable=True)
    waiting = names if as_stored else ()
    return from_pipe(pipe, path=path, device=device, dtype=dtype, autocast=autocast, offload=offload, waiting=waiting)


def from_pipe(
    pipe: DiffusionPipeline,
    *,
    path: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    offload: bool = False,
    waiting: Collection[str] = (),
) -> LoadedModel:
    """Freeze a pipeline that is in memory, put it into eval mode and on ``device``.

    Arguments are those of :class:`LoadedModel`; components ``waiting`` stay where they are.

    Raises:
        ModelError: it has no denoiser, or its scheduler does not integrate a velocity.
    """
    model = LoadedModel(pipe, type(pipe).__name__, path, device, dtype, autocast, offload)
    if not model.denoisers:
        raise ModelError(f"{path}: {model.architecture} has no component named transformer* or unet* to train")
    _check_flow_matching(model)
    for module in model.modules.values():
        module.requires_grad_(False).eval()
    for name, module in model.modules.items():
        if name not in waiting:
            module.to("cpu" if name in model.offloaded else device)
    _pin_execution_device(pipe, device)
    _count_encoder_calls(model)
    return model


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


def _from_pretrained(source: str, dtypes: Mapping[str, torch.dtype]) -> DiffusionPipeline:
    with foreign(f"{source}: diffusers cannot load this pipeline", "check model.path"), whole_weights.required():
        pipe = DiffusionPipeline.from_pretrained(
            source, dtype=dict(dtypes), use_safetensors=True, local_files_only=True
        )
    whole_weights.check(part for part in pipe.components.values() if isinstance(part, nn.Module))
    return pipe


def _downloaded(hub: str) -> Path:
    """The snapshot of a hub id with all its files, of which none is loaded yet."""
    with foreign(f"{hub} cannot be downloaded from the hub", "check model.path"):
        return Path(DiffusionPipeline.download(hub, use_safetensors=True))


def _denoiser_names(path: Path) -> list[str]:
    index = json.loads((path / INDEX).read_text(encoding="utf-8-sig"))
    return [name for name in index if name.startswith(DENOISER_PREFIXES)]


def _pin_execution_device(pipe: DiffusionPipeline, device: torch.device) -> None:
    """Fix the device that the pipeline reports.

    diffusers searches all modules for it in every call, which costs as much as a small denoiser, and takes that of the
    first component: with offloaded encoders it would be the CPU.
    """
    cls = type(pipe)
    fixed = property(lambda self: device)
    pipe.__class__ = type(
        cls.__name__, (cls,), {"_execution_device": fixed, "device": fixed, "__module__": cls.__module__}
    )


def _count_encoder_calls(model: LoadedModel) -> None:
    """Count forwards of every conditioning encoder, so that the gate can prove that replay makes none.

    Text and image encoders are models of transformers; diffusers' autoencoders have an ``encoder``. Whatever else a
    pipeline calls inside its loop (connectors, a duration head) is a part of the velocity and is not counted.
    """
    for name, module in model.modules.items():
        encoder = module if isinstance(module, PreTrainedModel) else getattr(module, "encoder", None)
        if name not in model.denoisers and isinstance(encoder, nn.Module):
            model.counts[name] = 0
            encoder.register_forward_pre_hook(lambda *_, name=name: _add_one(model.counts, name))


def _add_one(counts: dict[str, int], name: str) -> None:
    counts[name] += 1


def pick_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is the first CUDA device, or the CPU where there is none.

    With several ranks, each has the CUDA device of its number on its node.

    Raises:
        ConfigError: this machine has no such CUDA device, or several ranks would share one.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if world_size() > 1 and device.type == "cuda":
        if device.index is not None:
            raise ConfigError(f"device: {name} is one device, and this run has several processes", "set device: cuda")
        device = torch.device("cuda", local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name} is not on this machine", "set device: auto or device: cpu")
    return device
