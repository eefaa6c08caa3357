"""How the weights are spread over the ranks: every rank holds all of them, or a part of each (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Train
from omni_rl.errors import ConfigError
from omni_rl.model.boundary import foreign
from omni_rl.parallel.group import world_size


def is_sharded(train: Train, lora: bool) -> bool:
    """Whether each rank holds a part of the weights. One rank always holds all of them."""
    if world_size() == 1:
        return False
    return train.sharding == "sharded" or (train.sharding == "auto" and not lora)


def shard(model: LoadedModel, replicas: int = 1) -> None:
    """Spread the weights of every denoiser over the ranks; a block is whole only while it computes.

    The parameters become DTensors, and their gradients are summed over the ranks in the backward pass. Call it after
    adapters were added and before anything keeps the parameters. A denoiser on the CPU moves to the model's device
    block by block, so that no device holds all of it.

    Args:
        replicas: number of copies, each spread over equally many ranks.
    """
    mesh = _mesh(model.device.type, replicas)
    for name, denoiser in model.denoisers.items():
        with foreign(f"train.sharding: FSDP cannot shard {name}", "set train.sharding: replicated"):
            for module in [*repeated_blocks(denoiser), denoiser]:
                # Also the outermost module gives its weights back after a forward without gradients: otherwise the
                # next forward would not see that an update or a copy has changed them.
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
                _sum_gradients(module)
    model.sharded = True


def ranks_of_each(replicas: int) -> int:
    """The number of ranks over which each of ``replicas`` copies of the weights is spread.

    Raises:
        ConfigError: the ranks cannot be divided equally.
    """
    ranks = world_size()
    if ranks % replicas:
        what = f"train.replicas: {ranks} processes cannot be divided into {replicas} equal groups"
        raise ConfigError(what, f"set it to a divisor of {ranks}")
    return ranks // replicas


def _mesh(device_type: str, replicas: int) -> DeviceMesh:
    each = ranks_of_each(replicas)
    if replicas == 1:
        return init_device_mesh(device_type, (each,))
    return init_device_mesh(device_type, (replicas, each), mesh_dim_names=("replicas", "shards"))


def keep_masters(model: LoadedModel) -> None:
    """Convert denoisers to fp32 that were sharded in the dtype of their files, where fp32 weights are asked for."""
    if model.autocast or model.dtype is torch.float32:
        for denoiser in model.denoisers.values():
            nn.Module.to(denoiser, torch.float32)  # diffusers' own `to` warns of modules that are kept in fp32


def repeated_blocks(denoiser: nn.Module) -> Iterator[nn.Module]:
    """The modules of the classes that diffusers names as repeated or as not to be split, inner ones first."""
    named = {
        *(getattr(denoiser, "_repeated_blocks", None) or ()),
        *(getattr(denoiser, "_no_split_modules", None) or ()),
    }
    inner_first = reversed(list(denoiser.modules()))
    return (module for module in inner_first if type(module).__name__ in named and module is not denoiser)


def _sum_gradients(module: nn.Module) -> None:
    """Sum gradients over the ranks: FSDP takes the mean otherwise."""
    assert isinstance(module, FSDPModule)
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # with the CPU's transport, no other reduction exists
