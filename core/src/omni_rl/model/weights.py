"""What a sync sends to an engine in other processes: weights by diffusers' names, in portions, as safetensors.

A full fine-tuning sends every parameter. Adapters are sent merged into the weights that they stand beside, or as they
are. Nothing is collected before it is sent: at full size the weights fit no host twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load, save

from omni_rl.contracts.model import LoadedModel
from omni_rl.model.adapters import ADAPTER

Weights = dict[str, torch.Tensor]

ADAPTER_SIDES = (".lora_A.weight", ".lora_B.weight")
"""How the names of an adapter's two tensors end."""


def trained(model: LoadedModel, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter of the denoisers that training moves, in ``dtype``, on the CPU.

    With adapters: W + alpha / rank * B A, worked out in fp32, under the name of the weight that the adapter stands
    beside.
    """
    layers = _adapted(model)
    with torch.no_grad():
        for name, layer in layers.items():
            merged = layer.base_layer.weight.float() + layer.get_delta_weight(ADAPTER).float()
            yield name, merged.to("cpu", dtype)
    for name, parameter in {} if layers else model.parameters().items():
        yield name, parameter.detach().to("cpu", dtype)


def covers(model: LoadedModel) -> dict[str, list[str]]:
    """Weight that :func:`trained` sends -> the trainable parameters that are in it."""
    layers = _adapted(model)
    found: dict[str, list[str]] = {}
    for name in model.parameters():
        found.setdefault(f"{name.partition('.lora_')[0]}.weight" if layers else name, []).append(name)
    return found


def adapters(model: LoadedModel, dtype: torch.dtype, scale: float) -> Weights:
    """Every adapter's two tensors on the CPU, named as PEFT saves them; ``scale`` (alpha / rank) is in B, by fp32."""
    with torch.no_grad():
        return {
            sent: (p.float() * (scale if sent.endswith(ADAPTER_SIDES[1]) else 1)).to("cpu", dtype)
            for sent, p in ((plain_name(name), p) for name, p in model.parameters().items())
        }


def adapter_names(model: LoadedModel) -> dict[str, str]:
    """Name of a tensor of :func:`adapters` -> the trainable parameter that it is."""
    return {plain_name(name): name for name in model.parameters()}


def plain_name(name: str) -> str:
    """An adapter's parameter as PEFT saves it, without the adapter's own name."""
    return name.replace(f".{ADAPTER}.weight", ".weight")


def _adapted(model: LoadedModel) -> dict[str, LoraLayer]:
    """Weight's canonical name -> the layer in which an adapter stands beside it."""
    layers = ((f"{c}.{n}.weight", m) for c, d in model.denoisers.items() for n, m in d.named_modules())
    return {name: module for name, module in layers if isinstance(module, LoraLayer)}


def packed(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Named tensors as the bytes of one safetensors file, uint8 (bytes,) on the CPU."""
    return torch.frombuffer(bytearray(save({n: t.contiguous() for n, t in tensors.items()})), dtype=torch.uint8)


def unpacked(data: torch.Tensor) -> Weights:
    """The inverse of :func:`packed`."""
    return load(data.numpy().tobytes())


def portions(weights: Iterable[tuple[str, torch.Tensor]], most: int) -> Iterator[Weights]:
    """Portions of at most ``most`` bytes, a larger weight alone."""
    part: Weights = {}
    size = 0
    for name, weight in weights:
        if part and size + weight.nbytes > most:
            yield part
            part, size = {}, 0
        part[name], size = weight, size + weight.nbytes
    if part:
        yield part
