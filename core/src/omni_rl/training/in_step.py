"""Forwards of sharded denoisers, in the same order on all ranks.

A forward gathers the weights from all ranks, so all must run it together. But how many forwards a prediction needs
depends on its rows: some pipelines take only rows with texts of one length, and each expert of a model takes other
timesteps. Before each forward, the ranks therefore agree on the next one. A rank that does not need it runs it too, on
inputs that it has, and does not use the output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from omni_rl.contracts.types import Streams
from omni_rl.parallel.agreement import OtherRankFailedError, largest

_NONE = 2**30
"""What a rank asks for that needs no further forward."""

_FAILED = -1
"""What a rank asks for that failed before its first forward: it has no inputs with which it could help others."""


class InStep:
    """The forwards of all ranks."""

    def __init__(self, denoisers: Mapping[str, nn.Module]) -> None:
        self._denoisers = list(denoisers.values())
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._open = self._filling = False
        self._unused: list[torch.Tensor] = []  # zeros that depend on the outputs that this rank does not need
        for number, denoiser in enumerate(self._denoisers):
            denoiser.register_forward_pre_hook(partial(self._before, number), prepend=True, with_kwargs=True)

    @contextlib.contextmanager
    def section(self) -> Iterator[None]:
        """A context in which each rank may run another number of forwards; none only if it has run one before.

        All ranks must open and leave it together, and keep the same weights in the model inside.

        Raises:
            OtherRankFailedError: another rank failed before its first forward.
        """
        if self._open:
            yield
            return
        self._open = True
        try:
            yield
        except OtherRankFailedError:
            raise
        except BaseException:
            self._run_others(_FAILED if self._inputs is None else _NONE)  # the others go on
            raise
        else:
            self._run_others(_NONE)
        finally:
            self._open = False

    def complete(self, velocity: Streams) -> Streams:
        """The same velocity, from which a backward pass goes also through the forwards that this rank did not need.

        The backward pass of a forward is collective as well.
        """
        unused, self._unused = self._unused, []
        if not unused:
            return velocity
        zero = torch.stack(unused).sum()
        return {name: value + zero.to(value) for name, value in velocity.items()}

    def _before(self, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open and not self._filling:
            self._inputs = args, kwargs
            self._run_others(2 * number + torch.is_grad_enabled())

    def _run_others(self, own: int) -> None:
        """Run the forwards that other ranks need, until the next one is this rank's ``own``."""
        while (following := -int(largest(torch.tensor(-own)))) != own:
            if following == _FAILED:
                raise OtherRankFailedError
            number, gradient = divmod(following, 2)
            self._fill(self._denoisers[number], bool(gradient))

    def _fill(self, denoiser: nn.Module, gradient: bool) -> None:
        assert self._inputs is not None, "a rank without any forward cannot help with those of other ranks"
        args, kwargs = self._inputs
        self._filling = True
        try:
            with torch.set_grad_enabled(gradient):
                output = denoiser(*args, **kwargs)
        finally:
            self._filling = False
        if gradient:
            self._unused += [0 * leaf.float().sum() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
