"""The weights that a sync sends to an engine in other processes: by diffusers' names, in portions, as safetensors.

Full fine-tuning sends every parameter. Adapters are sent merged into the weights that they adapt, or as they are.
Weights are sent one portion after the other and never collected: a host does not hold a large model twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from peft.tuners.lora import LoraLayer
from safetensors import torch as safetensors

from omni_rl.contracts.interfaces import Form, TakesWeights, Weights
from omni_rl.contracts.model import LoadedModel
from omni_rl.model.adapters import ADAPTER
from omni_rl.parallel.whole import own_part, part_of, whole

Portion = dict[str, torch.Tensor]

ADAPTER_SIDES = (".lora_A.weight", ".lora_B.weight")
"""How the names of an adapter's two tensors end."""


def weights(model: LoadedModel, form: Form) -> Weights:
    """The trained weights in the form that an engine takes, fp32, on the model's device, one after the other."""
    return adapters(model) if form == "adapter" else merged(model)


def merged(model: LoadedModel) -> Weights:
    """Full weights that training moves.

    With adapters: W + alpha / rank * B A, computed in fp32, under the name of the weight that the adapter changes.
    """
    layers = _adapted(model)
    for name, layer in layers.items():
        low, high = (whole(side[ADAPTER].weight).float() for side in (layer.lora_A, layer.lora_B))
        yield name, whole(layer.base_layer.weight).float() + high @ low * layer.scaling[ADAPTER]
    for name, parameter in {} if layers else model.parameters().items():
        yield name, whole(parameter).float()


def adapters(model: LoadedModel) -> Weights:
    """Every adapter's two matrices, named as PEFT saves them; alpha / rank is multiplied into B."""
    layers = _adapted(model)
    for name, parameter in model.parameters().items():
        sent = plain_name(name)
        scale = (
            layers[f"{name.partition('.lora_')[0]}.weight"].scaling[ADAPTER] if sent.endswith(".lora_B.weight") else 1
        )
        yield sent, whole(parameter).float() * scale


def weight_names(model: LoadedModel, form: TakesWeights) -> list[str]:
    """The names that :func:`weights` yields; for ``none`` those of the trained parameters."""
    names = list(model.parameters())
    if form == "none":
        return names
    if form == "adapter":
        return [plain_name(name) for name in names]
    return list(_adapted(model)) or names


def load(model: LoadedModel, sent: Weights) -> dict[str, str]:
    """Copy what :func:`weights` yields of an equal model into this one; name sent -> parameter it landed in.

    Raises:
        ValueError: this model has no trained parameter of that name.
    """
    own = {plain_name(name): (name, parameter) for name, parameter in model.parameters().items()}
    layers = _adapted(model)
    landed = {}
    for name, value in sent:
        if name not in own:
            raise ValueError(f"the engine's model trains no weight {name}")
        target, parameter = own[name]
        if name.endswith(ADAPTER_SIDES[1]):
            value = value / layers[f"{target.partition('.lora_')[0]}.weight"].scaling[ADAPTER]
        own_part(parameter).copy_(part_of(value, parameter))
        landed[name] = target
    return landed


def plain_name(name: str) -> str:
    """An adapter's parameter as PEFT saves it, without the adapter's own name."""
    return name.replace(f".{ADAPTER}.weight", ".weight")


def _adapted(model: LoadedModel) -> dict[str, LoraLayer]:
    """Canonical name of each adapted weight -> its layer."""
    layers = ((f"{c}.{n}.weight", m) for c, d in model.denoisers.items() for n, m in d.named_modules())
    return {name: module for name, module in layers if isinstance(module, LoraLayer)}


def packed(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Named tensors as the bytes of one safetensors file, uint8 (bytes,) on the CPU."""
    return torch.frombuffer(
        bytearray(safetensors.save({n: t.contiguous() for n, t in tensors.items()})), dtype=torch.uint8
    )


def unpacked(data: torch.Tensor) -> Portion:
    """The inverse of :func:`packed`."""
    return safetensors.load(data.numpy().tobytes())


def portions(weights: Iterable[tuple[str, torch.Tensor]], most: int) -> Iterator[Portion]:
    """Portions of at most ``most`` bytes, a larger weight alone."""
    part: Portion = {}
    size = 0
    for name, weight in weights:
        if part and size + weight.nbytes > most:
            yield part
            part, size = {}, 0
        part[name], size = weight, size + weight.nbytes
    if part:
        yield part
