"""Whether the weights of a run fit into the memory of each rank, told before any of them is loaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from omni_rl.config.resolve import Resolved
from omni_rl.contracts.schema import Lora, Train
from omni_rl.errors import ConfigError
from omni_rl.model.loading import pick_device
from omni_rl.parallel.group import local_rank, local_world_size, world_size
from omni_rl.training.backend import TorchBackend, copies_of
from omni_rl.training.memory import Holding, Need, need
from omni_rl.training.sharding import is_sharded, ranks_of_each

MOST_RANKS = 64
"""The refusal proposes no more processes than this."""

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory, in bytes, that the processes of a container may use."""


def memory_ahead(resolved: Resolved) -> str | None:
    """A sentence about the memory that the weights need; warns if the machine has less.

    None if the files of the model do not tell, or if the backend is not derived from ``TorchBackend``.

    Raises:
        ConfigError: the GPU has less memory than the weights need; ``train.replicas`` does not divide the ranks.
    """
    backend, device = resolved.backend.object, pick_device(resolved.config.device)
    if not (isinstance(backend, type) and issubclass(backend, TorchBackend)):
        return None
    holding = _holding(resolved, device)
    found = need(resolved.model_path, holding)
    if found is None:
        return None
    on_gpu = device.type == "cuda"
    if on_gpu and found.device > card_memory(device):
        raise _too_large(resolved, holding, found, card_memory(device))
    host = (found.host if on_gpu else found.device) * local_world_size()
    short = _short_of_memory(host)
    if short is not None and local_rank() == 0:
        warnings.warn(short, stacklevel=2)
    where = _on_gpus(device, host) if on_gpu else _in_processes()
    told = f"{gigabytes(found.device)} of weights, gradients and moments {where} (without activations)"
    return told if short is None else f"{told}; {short}"


def card_memory(device: torch.device) -> int:
    """The memory of a CUDA device in bytes."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def machine_memory() -> int | None:
    """The memory in bytes that the processes of this machine may use; None where the system does not say."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        return None
    texts = [path.read_text().strip() for path in map(Path, _LIMITS) if path.is_file()]
    return min(found + [int(text) for text in texts if text.isdigit()])


def gigabytes(size: int) -> str:
    """``41.2 GB``, for less than 0.1 GB ``7.7 MB``."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _holding(resolved: Resolved, device: torch.device) -> Holding:
    config = resolved.config
    ranks = ranks_of_each(config.train.replicas) if is_sharded(config.train, config.model.lora is not None) else 1
    offload = config.train.offload and device.type != "cpu"
    return Holding(ranks, config.precision, config.model.lora, copies_of(config.train, resolved.traits), offload)


def _on_gpus(device: torch.device, host: int) -> str:
    card, ranks = gigabytes(card_memory(device)), world_size()
    where = f"on the GPU of {card}" if ranks == 1 else f"on each of {ranks} GPUs of {card}"
    return f"{where}, and {gigabytes(host)} in the memory of this machine" if host else where


def _in_processes() -> str:
    ranks, machine = world_size(), machine_memory()
    where = "in memory" if ranks == 1 else f"in each of {ranks} processes"
    return where if machine is None else f"{where}, of {gigabytes(machine)} of this machine"


def _short_of_memory(host: int) -> str | None:
    """A sentence if the ranks of this machine need more than it has, ``host`` bytes in all."""
    machine = machine_memory()
    if machine is None or host <= machine:
        return None
    return f"the run needs {gigabytes(host)} in the memory of this machine, which has {gigabytes(machine)}"


def _too_large(resolved: Resolved, holding: Holding, found: Need, card: int) -> ConfigError:
    ranks = world_size()
    where = "the GPU" if ranks == 1 else f"each of {ranks} GPUs"
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in found.on_device.items())
    what = f"the weights of this run need {gigabytes(found.device)} on {where} of {gigabytes(card)}: {parts}"
    ways = {text: need(resolved.model_path, other) for text, other in _ways(resolved, holding, card)}
    sizes = sorted((each.device, text) for text, each in ways.items() if each and each.device < found.device)
    hint = "\n  ".join(f"{text} ({gigabytes(size)})" for size, text in sizes)
    rest = "set one or several of these, in brackets what each alone leaves; activations come on top"
    return ConfigError(f"{what}.", f"{rest}:\n  {hint}" if sizes else "use a GPU with more memory")


def _ways(resolved: Resolved, holding: Holding, card: int) -> Iterator[tuple[str, Holding]]:
    """Settings that need less memory, each with how the run would then hold its weights."""
    train, ranks = resolved.config.train, world_size()
    yield from _more_ranks(resolved, holding, card)
    if ranks > holding.ranks:
        yield _one_copy(train), replace(holding, ranks=ranks)
    if not holding.offload:
        yield "train.offload=true", replace(holding, offload=True)
    if holding.lora is None and "lora" in resolved.traits.trained:
        spread = holding.ranks if train.sharding == "sharded" else 1
        yield "model.lora.rank=16 model.lora.targets=all-linear", replace(holding, lora=Lora(rank=16), ranks=spread)
    if holding.lora is not None and holding.precision == "fp32":
        yield "precision=bf16", replace(holding, precision="bf16")
    if train.ema is not None and "ema" not in resolved.traits.keeps:
        yield "train.ema=null", replace(holding, copies=tuple(n for n in holding.copies if n != "ema"))


def _more_ranks(resolved: Resolved, holding: Holding, card: int) -> Iterator[tuple[str, Holding]]:
    """The smallest number of GPUs into whose memory the sharded weights fit."""
    ranks, nodes = world_size(), world_size() // local_world_size()
    number = 2 * ranks
    while number <= MOST_RANKS:
        other = replace(holding, ranks=number)
        found = need(resolved.model_path, other)
        if found and found.device <= card:
            spread = _one_copy(resolved.config.train)
            yield f"launcher.name=torchrun launcher.processes={number // nodes} {spread}", other
            return
        number *= 2


def _one_copy(train: Train) -> str:
    """The settings with which one copy of the weights is spread over all ranks."""
    return "train.sharding=sharded train.replicas=1" if train.replicas > 1 else "train.sharding=sharded"
