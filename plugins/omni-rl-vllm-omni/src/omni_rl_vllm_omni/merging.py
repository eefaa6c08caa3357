"""The trainer's weights as the engine takes them: whole parameters by diffusers' names, adapters merged in."""

from __future__ import annotations

import torch
from peft.tuners.lora import LoraLayer

from omni_rl.backends.lora import ADAPTER
from omni_rl.model.loaded import LoadedModel

Weights = dict[str, torch.Tensor]


def trained(model: LoadedModel, dtype: torch.dtype) -> Weights:
    """Every parameter of the denoisers that training moves, in ``dtype``, on the CPU.

    With adapters: W + alpha / rank * B A, worked out in fp32, under the name of the weight that the adapter stands
    beside.
    """
    if any(isinstance(m, LoraLayer) for d in model.denoisers.values() for m in d.modules()):
        return {name: weight.to("cpu", dtype) for name, (weight, _) in _merged(model).items()}
    return {name: p.detach().to("cpu", dtype) for name, p in model.parameters().items()}


def adapters(model: LoadedModel) -> Weights:
    """Every adapter's two tensors, fp32 on the CPU, as ``<component>.<module>.lora_A.weight`` and ``lora_B.weight``."""
    return {_plain(name): p.detach().to("cpu", torch.float32) for name, p in model.parameters().items()}


def adapter_names(model: LoadedModel) -> dict[str, str]:
    """Name of a tensor of :func:`adapters` -> the trainable parameter that it is."""
    return {_plain(name): name for name in model.parameters()}


def _plain(name: str) -> str:
    return name.replace(f".{ADAPTER}.weight", ".weight")


def covers(model: LoadedModel) -> dict[str, list[str]]:
    """Weight that is sent -> the trainable parameters that are in it."""
    merged = _adapters(model)
    return {name: names for name, (_, names) in merged.items()} or {name: [name] for name in model.parameters()}


def _adapters(model: LoadedModel) -> dict[str, tuple[LoraLayer, list[str]]]:
    found = {}
    for component, denoiser in model.denoisers.items():
        for path, module in denoiser.named_modules():
            if isinstance(module, LoraLayer):
                prefix = f"{component}.{path}."
                names = [n for n in model.parameters() if n.startswith(prefix)]
                found[f"{prefix}weight"] = (module, names)
    return found


def _merged(model: LoadedModel) -> dict[str, tuple[torch.Tensor, list[str]]]:
    with torch.no_grad():
        return {
            name: (layer.base_layer.weight.float() + layer.get_delta_weight(ADAPTER).float(), names)
            for name, (layer, names) in _adapters(model).items()
        }
