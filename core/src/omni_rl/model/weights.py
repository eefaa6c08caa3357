"""The weights that a sync sends to an engine in other processes: by diffusers' names, in portions, as safetensors.

Full fine-tuning sends every parameter. Adapters are sent merged into the weights that they adapt, or as they are.
Weights are sent one portion after the other and never collected: a host does not hold a large model twice.
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
    """Every weight of the denoisers that training changes, in ``dtype``, on the CPU.

    With adapters: W + alpha / rank * B A, computed in fp32, under the name of the weight W that the adapter adapts.
    """
    layers = _adapted(model)
    with torch.no_grad():
        for name, layer in layers.items():
            merged = layer.base_layer.weight.float() + layer.get_delta_weight(ADAPTER).float()
            yield name, merged.to("cpu", dtype)
    for name, parameter in {} if layers else model.parameters().items():
        yield name, parameter.detach().to("cpu", dtype)


def covers(model: LoadedModel) -> dict[str, list[str]]:
    """Name of each weight that :func:`trained` sends -> the trainable parameters that it is computed from."""
    layers = _adapted(model)
    covered: dict[str, list[str]] = {}
    for name in model.parameters():
        covered.setdefault(f"{name.partition('.lora_')[0]}.weight" if layers else name, []).append(name)
    return covered


def adapters(model: LoadedModel, dtype: torch.dtype, scale: float) -> Weights:
    """Every adapter's two tensors on the CPU, named as PEFT saves them.

    Args:
        scale: alpha / rank, by which B is multiplied in fp32.
    """
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
    """Canonical name of each adapted weight -> its layer."""
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
