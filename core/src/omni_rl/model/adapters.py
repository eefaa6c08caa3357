"""Choose the weights that train: adapters, which are injected in place, or the whole denoiser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Lora
from omni_rl.errors import ConfigError, ModelError, did_you_mean
from omni_rl.model.boundary import foreign

ADAPTER = "default"


def make_trainable(model: LoadedModel, lora: Lora | None, seed: int) -> None:
    """Mark the parameters that train in every denoiser. Adapters are in fp32.

    Raises:
        ConfigError: no module matches ``model.lora.targets``.
        ModelError: a trained module holds dropout > 0, which rollout and replay (both in eval mode) would not apply.
    """
    for name, denoiser in model.denoisers.items():
        if lora is None:
            denoiser.requires_grad_(True)
        else:
            add_adapters(name, denoiser, lora, seed)
        _refuse_dropout(name, denoiser)
        denoiser.eval()


def add_adapters(name: str, denoiser: nn.Module, lora: Lora, seed: int) -> None:
    """Add adapters in fp32, drawn from ``seed``, to the denoiser ``name``; only they train.

    Raises:
        ConfigError: no module matches ``model.lora.targets``.
    """
    refuse_untargeted(name, denoiser, lora.targets)
    targets = _targets(denoiser, lora.targets)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, init_lora_weights="gaussian")
    with torch.random.fork_rng(devices=[]):  # adapters start from the run's seed, and from nothing else
        torch.manual_seed(seed)
        with foreign(f"model.lora: PEFT cannot add adapters to {name}", "choose other model.lora.targets"):
            inject_adapter_in_model(config, denoiser, adapter_name=ADAPTER)
    for parameter_name, parameter in denoiser.named_parameters():
        trains = ".lora_" in parameter_name
        parameter.requires_grad_(trains)
        if trains:
            parameter.data = parameter.data.float()


def refuse_untargeted(name: str, denoiser: nn.Module, targets: list[str] | str, place: str = "") -> None:
    """Refuse targets that match no module of the denoiser ``name``.

    Args:
        place: where in the configuration targets were set, for the message.

    Raises:
        ConfigError: no linear module's name ends in one of ``targets``.
    """
    if not _targets(denoiser, targets):
        raise ConfigError(
            f"{place}{': ' if place else ''}model.lora.targets: no linear module of {name} ends in {targets}",
            f"modules look like: {', '.join(_linear_names(denoiser)[:4])}",
        )


def refuse_unmatched(denoisers: Mapping[str, nn.Module], targets: list[str] | str, place: str) -> None:
    """Refuse a target that no module of any denoiser matches.

    Raises:
        ConfigError: no linear module's name ends in one of ``targets``; names the first.
    """
    names = [n for denoiser in denoisers.values() for n in _linear_names(denoiser)]
    for target in [] if targets == "all-linear" else _listed(targets):
        if not any(_ends_in(n, target) for n in names):
            ends = {".".join(n.split(".")[-1 - target.count(".") :]) for n in names}
            what = f"{place}: model.lora.targets: no linear module of {', '.join(denoisers)} ends in '{target}'."
            raise ConfigError(what + did_you_mean(target, ends), f"modules look like: {', '.join(names[-4:])}")


def _linear_names(module: nn.Module) -> list[str]:
    return [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]


def _targets(denoiser: nn.Module, targets: list[str] | str) -> list[str]:
    names = _linear_names(denoiser)
    if targets == "all-linear":
        return names
    return [n for n in names if any(_ends_in(n, target) for target in _listed(targets))]


def _listed(targets: list[str] | str) -> list[str]:
    return [targets] if isinstance(targets, str) else targets


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _refuse_dropout(name: str, denoiser: nn.Module) -> None:
    for path, module in denoiser.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise ModelError(f"{name}.{path} has dropout {module.p}: rollout and replay run without it", "set it to 0")
