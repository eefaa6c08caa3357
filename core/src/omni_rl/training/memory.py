"""How many bytes the weights of a run need on each rank, known before any of them is loaded.

The denoisers are built without weights from their configuration; the sizes of all other components stand in the headers
of their files. Activations are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from omni_rl.contracts.schema import Lora
from omni_rl.errors import ModelError
from omni_rl.model import outline
from omni_rl.model.adapters import add_adapters
from omni_rl.model.encoder_sizes import Size, encoder_sizes, kept_in_fp32
from omni_rl.training.offload import AT_A_TIME
from omni_rl.training.sharding import repeated_blocks

BF16 = 2
"""Bytes of a number."""


@dataclass(frozen=True)
class Holding:
    """How a run holds its weights.

    Attributes:
        ranks: number of ranks of which each has a part of the weights; 1: each rank has all of them.
        precision: ``fp32`` or ``bf16``.
        lora: the adapters; None: all weights of the denoisers train.
        copies: names of the copies of the trained weights.
        offload: ``train.offload``; with the CPU as the device it changes nothing.
    """

    ranks: int
    precision: str
    lora: Lora | None
    copies: tuple[str, ...] = ()
    offload: bool = False


@dataclass(frozen=True)
class Part:
    """Bytes of one kind of tensors on one rank.

    Attributes:
        device: on the device during the whole run.
        at_times: on the device only while they are used; parts differ in when that is.
        host: in the memory of the machine.
    """

    name: str
    device: int = 0
    at_times: int = 0
    host: int = 0


@dataclass(frozen=True)
class Need:
    """What one rank needs, in bytes: the sums over ``parts``."""

    parts: tuple[Part, ...]

    @property
    def device(self) -> int:
        """At least so many bytes are on the device at one time: what is always there, and the largest other part."""
        return sum(self.on_device.values())

    @property
    def on_device(self) -> dict[str, int]:
        """The bytes that ``device`` sums, by the name of their part."""
        largest = max(self.parts, key=lambda part: part.at_times, default=None)
        counted = {part.name: part.device + (part.at_times if part is largest else 0) for part in self.parts}
        return {name: size for name, size in counted.items() if size}

    @property
    def host(self) -> int:
        """Bytes in the memory of the machine."""
        return sum(part.host for part in self.parts)


def need(folder: Path, holding: Holding) -> Need | None:
    """What the weights of the pipeline in ``folder`` need; None if its files do not say so.

    That is the case for a hub id that is not downloaded, and for denoisers that diffusers cannot build.

    Raises:
        ConfigError: no module matches the targets of ``holding.lora``.
    """
    try:
        denoisers = outline.denoisers(folder)
        encoders = encoder_sizes(folder, holding.precision)
    except (ModelError, OSError):  # loading says what is wrong
        return None
    if not denoisers:
        return None
    for name, denoiser in denoisers.items():
        _prepare(name, denoiser, holding)
    return Need((*_denoiser_parts(denoisers, holding), *_encoder_parts(encoders, holding.offload)))


def _prepare(name: str, denoiser: nn.Module, holding: Holding) -> None:
    """Give what is stored in files the dtypes that it has in the run, and mark the parameters that train."""
    if holding.precision == "bf16" and holding.lora is not None:  # full fine-tuning has masters in fp32
        for key, tensor in denoiser.state_dict(keep_vars=True).items():
            if tensor.is_floating_point() and not kept_in_fp32(type(denoiser), key):
                tensor.data = tensor.data.to(torch.bfloat16)
    if holding.lora is not None:
        with torch.device("meta"):
            add_adapters(name, denoiser, holding.lora, seed=0)


def _denoiser_parts(denoisers: Mapping[str, nn.Module], holding: Holding) -> Iterator[Part]:
    parameters = [p for denoiser in denoisers.values() for p in denoiser.parameters()]
    buffers = sum(b.nbytes for denoiser in denoisers.values() for b in denoiser.buffers())  # whole on every rank
    frozen = buffers + sum(_own_bytes(p, holding.ranks) for p in parameters if not p.requires_grad)
    trained = sum(_own_bytes(p, holding.ranks) for p in parameters if p.requires_grad)
    yield Part("frozen weights", frozen)
    yield Part("masters", trained)
    yield Part("gradients", trained)
    moved = min(2 * trained, 2 * AT_A_TIME)
    yield Part("moments", at_times=moved, host=2 * trained) if holding.offload else Part("moments", 2 * trained)
    for name in holding.copies:
        yield Part(f"copy {name}", trained)
    if holding.ranks > 1:
        yield Part("gathered weights", at_times=max(map(_gathered, denoisers.values())))
    elif holding.precision == "bf16" and holding.lora is None:
        yield Part("weights in bf16", at_times=max(map(_cast, denoisers.values())))


def _encoder_parts(sizes: Sequence[Size], offload: bool) -> Iterator[Part]:
    moved = sum(each.size for each in sizes if offload and each.offloadable)
    yield Part("encoders and VAE", sum(each.size for each in sizes) - moved, at_times=moved, host=moved)


def _own_bytes(parameter: nn.Parameter, ranks: int) -> int:
    """Bytes on one of the ranks: FSDP spreads the rows, and all ranks have room for as many."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // ranks) * (parameter.nbytes // max(1, rows))


def _gathered(denoiser: nn.Module) -> int:
    """Bytes that are whole at one time while sharded weights compute: those outside of blocks, and one block."""
    seen: set[nn.Parameter] = set()
    blocks = []
    for block in repeated_blocks(denoiser):
        own = set(block.parameters()) - seen
        seen |= own
        blocks.append(sum(p.nbytes for p in own))
    return max(blocks, default=0) + sum(p.nbytes for p in denoiser.parameters() if p not in seen)


def _cast(denoiser: nn.Module) -> int:
    """Bytes of the weights in bf16 that autocast keeps until a forward ends: those of linear layers, convolutions."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return sum(BF16 * m.weight.numel() for m in denoiser.modules() if isinstance(m, kinds))
