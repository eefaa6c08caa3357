"""Sequence parallelism: several ranks share each sample, and each computes a part of its token sequence.

diffusers divides the sequence where the denoiser's ``_cp_plan`` says, exchanges heads (Ulysses) or keys and values
(ring) in every attention, and gathers the output, so that each rank has the whole velocity and the whole loss.

For gradients, each of P ranks counts for 1/P of the loss, and every exchange passes on the sum of what all ranks need
of it. The sum over all ranks is then the gradient of one rank, whichever part of the model is divided and whichever is
computed by every rank. Of diffusers' exchanges, only the gathering of outputs does not sum; here it does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks.context_parallel import _get_submodule_by_name
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_leaves, tree_map

from omni_rl.contracts.model import LoadedModel
from omni_rl.contracts.schema import Train
from omni_rl.errors import ConfigError
from omni_rl.model.boundary import foreign
from omni_rl.parallel.group import Ranks
from omni_rl.parallel.layout import Layout, layout

TEXT, MASKS = "encoder_hidden_states", ("encoder_hidden_states_mask", "encoder_attention_mask")
"""The denoiser's arguments with the text and with its mask, by the convention of diffusers."""

NO_SHARING = "set train.sequence_parallel.ulysses: 1 and train.sequence_parallel.ring: 1"

WITHOUT_RING = {AttentionBackendName.NATIVE}
"""Attention kernels that do not return the sums by which a ring joins its parts."""

RING_KERNELS = {"cuda": AttentionBackendName._NATIVE_FLASH}
"""The kernel that replaces one of them, by device."""

WITHOUT_BACKWARD = ("sage",)
"""Prefixes of the names of attention kernels that cannot train."""


def divide_sequences(model: LoadedModel, train: Train) -> None:
    """Let the ranks of a sequence group share each sample in every forward of the denoisers, if they are several.

    Call it after adapters were added, and before the weights are sharded.

    Raises:
        ConfigError: a denoiser or its attention cannot be divided as configured.
    """
    found = layout()
    if found is None:
        return
    for name, denoiser in model.denoisers.items():
        _check(name, denoiser, train, model.device)
        _enable(name, denoiser, found, train, model.device)
        _count_once(denoiser, found.sequence)
        if _divides_text(denoiser):
            denoiser.register_forward_pre_hook(_text_padding(denoiser, found.sequence.size), with_kwargs=True)
        _explain(name, denoiser, found.sequence.size)


def _check(name: str, denoiser: nn.Module, train: Train, device: torch.device) -> None:
    kind, asked = type(denoiser).__name__, train.sequence_parallel
    if not getattr(denoiser, "_cp_plan", None):
        what = f"train.sequence_parallel: diffusers does not say how to divide the sequence of {kind} ({name})"
        raise ConfigError(what, NO_SHARING)
    if train.compile:
        what = "train.sequence_parallel: blocks that exchange parts of a sequence cannot be compiled yet"
        raise ConfigError(what, "set train.compile: false")
    heads = [getattr(module, "heads", None) for module in denoiser.modules()]
    uneven = sorted({count for count in heads if isinstance(count, int) and count % asked.ulysses})
    if uneven:
        what = f"train.sequence_parallel.ulysses: {asked.ulysses} ranks cannot share {uneven[0]} heads of {kind}"
        raise ConfigError(what, f"set it to a divisor of {uneven[0]}, or use train.sequence_parallel.ring")
    if asked.ring > 1 and device.type not in RING_KERNELS:
        what = f"train.sequence_parallel.ring: diffusers has no attention for it on the device {device.type}"
        raise ConfigError(what, "set train.sequence_parallel.ring: 1, and use train.sequence_parallel.ulysses")


def _enable(name: str, denoiser: Any, found: Layout, train: Train, device: torch.device) -> None:
    asked = train.sequence_parallel
    active, _ = _AttentionBackendRegistry.get_active_backend()
    kernel = RING_KERNELS[device.type] if asked.ring > 1 and active in WITHOUT_RING else active
    if kernel.value.startswith(WITHOUT_BACKWARD):
        what = f"train.sequence_parallel: the attention {kernel.value} (DIFFUSERS_ATTN_BACKEND) has no backward pass"
        raise ConfigError(what, "unset the variable DIFFUSERS_ATTN_BACKEND")
    config = ContextParallelConfig(ulysses_degree=asked.ulysses, ring_degree=asked.ring, mesh=found.mesh)
    # Without a GPU, diffusers would divide by the number of GPUs.
    counted = mock.patch.object(torch.accelerator, "device_count", return_value=max(1, torch.cuda.device_count()))
    what = f"train.sequence_parallel: diffusers cannot divide the sequence of {name}"
    with foreign(what, NO_SHARING), counted:
        if kernel != active:
            denoiser.set_attention_backend(kernel.value)
        denoiser.enable_parallelism(config=config)
    _cast_before(kernel)


def _cast_before(kernel: Any) -> None:
    """Under autocast, cast what attention gets already before it: its divided form computes its backward pass itself,
    where autocast is off.
    """
    known = _AttentionBackendRegistry._backends[kernel]
    if hasattr(known, "__wrapped__"):
        return

    @functools.wraps(known)
    def cast(*, _parallel_config: Any = None, **given: Any) -> Any:
        kind = given["query"].device.type
        if _parallel_config is not None and torch.is_autocast_enabled(kind):
            given = {n: _lowered(value, torch.get_autocast_dtype(kind)) for n, value in given.items()}
        return known(_parallel_config=_parallel_config, **given)

    _AttentionBackendRegistry._backends[kernel] = cast


def _lowered(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _count_once(denoiser: nn.Module, ranks: Ranks) -> None:
    """Make the sum of gradients over the ranks that of one rank."""

    def shared(gradient: torch.Tensor) -> torch.Tensor:
        return gradient / ranks.size

    def summed(gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ranks.group)
        return total

    for gathering in _gathering_modules(denoiser):
        _change_gradients(gathering, summed)
    _change_gradients(denoiser, shared)


def _change_gradients(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Apply ``change`` to the gradients of all outputs of the module, before its own backward pass."""

    def watch(_: nn.Module, __: Any, output: Any) -> None:
        for value in tree_leaves(output):
            if isinstance(value, torch.Tensor) and value.requires_grad:
                value.register_hook(change)

    module.register_forward_hook(watch)


def _gathering_modules(denoiser: Any) -> Iterator[nn.Module]:
    """The modules whose outputs diffusers gathers: their entry in the plan is no mapping of inputs."""
    for path, entry in denoiser._cp_plan.items():
        if not isinstance(entry, Mapping):
            modules = _get_submodule_by_name(denoiser, path)
            yield from modules if isinstance(modules, list) else [modules]


def _divides_text(denoiser: Any) -> bool:
    return any(isinstance(entry, Mapping) and TEXT in entry for entry in denoiser._cp_plan.values())


def _text_padding(denoiser: nn.Module, parts: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]] | None]:
    """A hook that pads texts to a multiple of ``parts`` tokens, if the denoiser takes a mask that hides the padding."""
    signature = inspect.signature(denoiser.forward)
    mask_name = next((name for name in MASKS if name in signature.parameters), None)

    def padded(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = signature.bind_partial(*args, **kwargs).arguments
        text = given.get(TEXT)
        if mask_name is None or not isinstance(text, torch.Tensor) or text.shape[1] % parts == 0:
            return args, kwargs
        missing, mask = -text.shape[1] % parts, given.get(mask_name)
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        return (), {**given, TEXT: pad(text, (0, 0, 0, missing)), mask_name: pad(mask, (0, missing))}

    return padded


def _explain(name: str, denoiser: Any, parts: int) -> None:
    """Say in a sentence why a sequence cannot be divided, where diffusers asserts that it can or goes on regardless."""
    forward, gathered = denoiser.forward, sum(1 for _ in _gathering_modules(denoiser))

    @functools.wraps(forward)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            output = forward(*args, **kwargs)
        except (AssertionError, ValueError) as error:
            raise _told(name, parts, str(error)) or error from error
        if sum(isinstance(value, torch.Tensor) for value in tree_leaves(output)) > gathered:
            what = f"train.sequence_parallel: diffusers divides only one of the sequences of {type(denoiser).__name__}"
            raise ConfigError(what, NO_SHARING)
        return tree_map(_arrived, output)

    denoiser.forward = explained


def _arrived(value: Any) -> Any:
    """The value, also of a tensor that other ranks are still sending: nobody may ever use it."""
    waits = isinstance(value, AsyncCollectiveTensor) and not value.requires_grad
    return value.wait() if waits else value


def _told(name: str, parts: int, reason: str) -> ConfigError | None:
    if "divisible by mesh size" in reason:
        what = f"train.sequence_parallel: {parts} ranks cannot share a sequence of {name} in equal parts"
        return ConfigError(
            what, "change height, width or number of frames in rollout.call, or set smaller sizes of ulysses and ring"
        )
    if "`attn_mask` is not supported" in reason:
        what = f"train.sequence_parallel.ring: {name} masks the padding of texts, which a ring cannot"
        return ConfigError(what, "set train.sequence_parallel.ring: 1, and use train.sequence_parallel.ulysses")
    return None
