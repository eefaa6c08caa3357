"""Loads LoRA adapters into the engine's worker without merging: vLLM-Omni's own LoRA layers, filled from memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper

from omni_rl.authoring.engine import ADAPTER_SIDES, Landing, Pipeline, locate
from omni_rl_vllm_omni.wire import ADAPTER_ID

A, B = ADAPTER_SIDES


def activate(
    manager: Any, pipeline: Pipeline, landings: dict[str, Landing], tensors: Mapping[str, torch.Tensor], rank: int
) -> dict[str, str]:
    """Replace the previous adapters and read the new ones back. Returns for each tensor the parameter that holds it.

    Args:
        manager: the worker's ``DiffusionLoRAManager``.
        landings: of the base weights of the adapters; missing ones are added here.
        tensors: ``<component>.<module>.lora_A.weight`` (rank, in) and ``lora_B.weight`` (out, rank), scale included.

    Raises:
        ValueError: vLLM-Omni has no LoRA layer for a module, or a layer does not hold the tensors that were sent.
    """
    modules = {m: (len(tensors[m + B]), tensors[m + A].shape[1]) for m in _modules(tensors)}  # (out, in)
    landings |= locate(pipeline, {f"{m}.weight": s for m, s in modules.items() if f"{m}.weight" not in landings})
    names = {m: _own_name(pipeline, landings[f"{m}.weight"], m) for m in modules}
    sent = {f"{names[m]}{side}": tensors[m + side] for m in modules for side in ADAPTER_SIDES}
    # B includes the scale: vLLM-Omni takes alpha as a whole number, and with alpha = rank its own scale is 1.
    helper = PEFTHelper(r=rank, lora_alpha=rank, target_modules=sorted({n.rsplit(".", 1)[-1] for n in names.values()}))
    model = LoRAModel.from_lora_tensors(ADAPTER_ID, dict(sent), helper, device="cpu", dtype=manager.dtype)
    manager._registered_adapters[ADAPTER_ID] = model
    manager._touch_adapter_info(ADAPTER_ID)
    manager._replace_layers_with_lora(helper)
    _replace_aliases(manager)
    manager._active_adapter_id = None  # the id stays the same; without this, the manager would skip the new weights
    manager._activate_adapter(ADAPTER_ID, 1.0)
    places = dict(_read_back(manager, sent))
    missing = sent.keys() - places.keys()
    if missing:
        raise ValueError(f"the engine has no LoRA layer for {min(missing)}; set rollout.lora to merged")
    return {m + side: places[names[m] + side] for m in modules for side in ADAPTER_SIDES}


def _replace_aliases(manager: Any) -> None:
    """Some pipelines refer to a layer by two names, and vLLM-Omni replaces only one of them; replace the other too."""
    layers = {id(layer.base_layer): layer for layer in manager._lora_modules.values()}
    for parent in list(manager.pipeline.modules()):
        for name, child in list(parent.named_children()):
            layer = layers.get(id(child))
            if layer is not None and parent is not layer:
                setattr(parent, name, layer)


def _modules(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [name.removesuffix(A) for name in tensors if name.endswith(A)]


def _own_name(pipeline: Pipeline, landing: Landing, module: str) -> str:
    """vLLM-Omni's name of a module: the canonical name, unless the weight fills a parameter with another name."""
    own = landing.parameter.replace(".base_layer.", ".")
    return own.removesuffix(".weight") if landing.is_whole(pipeline) else module


def _read_back(manager: Any, sent: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Yield (tensor, LoRA layer) for every tensor that a LoRA layer holds as it was sent."""
    for module, layer in manager._lora_modules.items():
        stacks = (layer.lora_a_stacked, layer.lora_b_stacked)
        for index, name in enumerate(_slices(manager, module, len(stacks[0]))):
            for side, stack in zip(ADAPTER_SIDES, stacks, strict=True):
                if name + side in sent:
                    tensor, held = sent[name + side], stack[index][0, 0]
                    found = held[: tensor.shape[0], : tensor.shape[1]]
                    if not torch.equal(found, tensor.to(found)):
                        raise ValueError(f"{name + side} is not in {module}[{index}] after it was loaded")
                    yield name + side, f"{module}[{index}]"


def _slices(manager: Any, module: str, count: int) -> Sequence[str]:
    """The canonical names of the slices of a fused layer."""
    prefix, _, last = module.rpartition(".")
    parts = manager._get_packed_sublayer_suffixes(last, count) if count > 1 else None
    return [module] if parts is None else [f"{prefix}.{part}" for part in parts]
