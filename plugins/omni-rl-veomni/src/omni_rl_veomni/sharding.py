"""VeOmni's parallel state, and its FSDP2 around denoisers whose weights are in memory.

VeOmni shards a network without weights and then loads these from files. Here adapters may be there already, and a
model may have no files; so the values are kept, VeOmni shards the empty network, and each rank takes its parts back.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from veomni.arguments import MixedPrecisionConfig
from veomni.distributed.parallel_state import ParallelState, clear_parallel_state, init_parallel_state
from veomni.distributed.parallel_state import set_parallel_state as set_state
from veomni.distributed.torch_parallelize import build_parallelize_model
from veomni.utils.device import get_device_type

from omni_rl.authoring.backend import own_part, part_of, world_size
from omni_rl.contracts.model import LoadedModel
from omni_rl.errors import ConfigError


def begin(model: LoadedModel, replicas: int) -> None:
    """Tell VeOmni how the ranks are arranged; its networks ask for it in every forward.

    Raises:
        ConfigError: the ranks cannot be divided into ``replicas`` groups, or VeOmni would use another device.
    """
    ranks = world_size()
    if ranks % replicas:
        what = f"train.replicas: {ranks} processes cannot be divided into {replicas} equal groups"
        raise ConfigError(what, f"set it to a divisor of {ranks}")
    if ranks > 1 and model.device.type != get_device_type():
        what = f"device: {model.device.type}, but VeOmni with several processes uses {get_device_type()} here"
        raise ConfigError(what, f"set device: {get_device_type()}, or CUDA_VISIBLE_DEVICES= to hide the GPUs")
    clear_parallel_state()
    if ranks == 1:
        set_state(ParallelState())  # an empty state would be the same, with a warning
        return
    init_parallel_state(
        dp_size=ranks,
        dp_replicate_size=replicas,
        dp_shard_size=ranks // replicas,
        dp_mode="fsdp2",
        device_type=model.device.type,
    )


def end() -> None:
    """Forget the arrangement: the process group of the next run is another one."""
    clear_parallel_state()


def shard(model: LoadedModel) -> None:
    """Shard the weights of every denoiser with VeOmni, adapters included. Gradients are summed over the ranks."""
    for denoiser in model.denoisers.values():
        values = {name: tensor.detach() for name, tensor in _tensors(denoiser)}
        _without_weights(denoiser)
        build_parallelize_model(
            denoiser,
            mixed_precision=MixedPrecisionConfig(enable=False),  # autocast computes in bf16, as with one rank
            enable_gradient_checkpointing=False,  # done before, by diffusers' function
            basic_modules=list(getattr(denoiser, "_repeated_blocks", None) or ()),
            should_skip_hf_weight_load=True,  # the values come from memory
            init_device="meta",
        )
        for name, tensor in _tensors(denoiser):
            own_part(tensor).copy_(part_of(values.pop(name), tensor))
        for module in denoiser.modules():
            if isinstance(module, FSDPModule):
                _sum_gradients(module)
        # VeOmni keeps the outermost weights whole after a forward. The next forward without gradients would then not
        # see that an update or a copy has changed them.
        denoiser.set_reshard_after_forward(True, recurse=False)  # type: ignore[operator]
    model.sharded = True


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _without_weights(module: nn.Module) -> None:
    """Put every parameter on the device ``meta``; buffers stay."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            empty = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            setattr(part, name, empty)


def _sum_gradients(module: FSDPModule) -> None:
    """Sum gradients over the ranks: FSDP takes the mean otherwise, and the loss is divided already."""
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)
