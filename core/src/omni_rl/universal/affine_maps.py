"""Maps that permute the elements of a tensor and scale and shift each of them: found by probes, and inverted.

Packing is such a map, and so is the normalisation of latents by an autoencoder's statistics; every pipeline writes its
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from omni_rl.schedulers.randomness import randn

Through = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
"""The maps to find, run together: tensors (1, ...) to tensors (1, ...), each of which depends on its own input only."""

_DIGITS = 128
"""Positions are written in digits below this, which bf16 holds exactly."""

_FAR = 1024.0
"""Distance between the scale probes; divides rounding by 1024."""


class NotAffineError(Exception):
    """The map does something else; says what."""


@dataclass(frozen=True)
class AffineMap:
    """Input element i goes to output position ``order[i]``, is multiplied by ``scale`` there, and ``shift`` is added.

    Attributes:
        input_shape, output_shape: of one sample.
        order: (P,) int64, a permutation.
        scale, shift: (P,) fp32, by output position.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    order: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    @property
    def is_identity(self) -> bool:
        """Whether input and output are the same."""
        moved = self.input_shape != self.output_shape or not torch.equal(self.order, torch.arange(len(self.order)))
        return not (moved or self.shift.any() or (self.scale - 1).any())

    def inverse(self, output: torch.Tensor) -> torch.Tensor:
        """(B, *input_shape) from (B, *output_shape)."""
        order, scale, shift = (t.to(output.device) for t in (self.order, self.scale, self.shift))
        return ((output.flatten(1) - shift) / scale)[:, order].view(len(output), *self.input_shape)


def find_maps(through: Through, shapes: Sequence[Sequence[int]]) -> list[AffineMap]:
    """The map of each input (*shape) of one sample.

    Raises:
        NotAffineError: elements are lost, or something else is done to them.
    """
    sizes = [math.prod(shape) for shape in shapes]

    def outputs(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        shaped = [value.float().view(1, *shape) for value, shape in zip(inputs, shapes, strict=True)]
        results = [result.cpu() for result in through(shaped)]
        if [result.numel() for result in results] != sizes:
            raise NotAffineError("elements are lost on the way")
        return results

    at_zero = outputs([torch.zeros(size) for size in sizes])
    shifts = [zero.flatten().float() for zero in at_zero]
    far = outputs([torch.full((size,), _FAR) for size in sizes])
    scales = [(f.flatten().float() - shift) / _FAR for f, shift in zip(far, shifts, strict=True)]
    if any(bool((scale == 0).any()) for scale in scales):
        raise NotAffineError("elements are lost on the way")
    sources = _sources(outputs, sizes, scales, shifts)
    parts = zip(shapes, at_zero, sources, scales, shifts, strict=True)
    maps = [
        AffineMap(tuple(shape), tuple(o.shape[1:]), s.argsort(), scale, shift) for shape, o, s, scale, shift in parts
    ]
    _check_inverses(outputs, sizes, maps)
    return maps


def _sources(
    outputs: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    sizes: Sequence[int],
    scales: Sequence[torch.Tensor],
    shifts: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """(P,) for each map: which input element each output position holds, found digit by digit."""
    sources = [torch.zeros(size, dtype=torch.long) for size in sizes]
    unit = 1
    while unit < max(sizes):
        results = outputs([torch.arange(size) // unit % _DIGITS for size in sizes])
        for source, result, scale, shift in zip(sources, results, scales, shifts, strict=True):
            source += unit * ((result.flatten().float() - shift) / scale).round().long()
        unit *= _DIGITS
    if not all(torch.equal(s.sort().values, torch.arange(size)) for s, size in zip(sources, sizes, strict=True)):
        raise NotAffineError("positions do not come back one by one")
    return sources


def _check_inverses(
    outputs: Callable[[list[torch.Tensor]], list[torch.Tensor]], sizes: Sequence[int], maps: Sequence[AffineMap]
) -> None:
    """Invert the maps of random sixteenths, which bf16 holds exactly too.

    Raises:
        NotAffineError: they do not come back.
    """
    inputs = [(16 * randn(index, (size,))).round() / 16 for index, size in enumerate(sizes)]
    inverted = [each.inverse(o.float()).flatten() for each, o in zip(maps, outputs(inputs), strict=True)]
    if not all(torch.allclose(back, value, atol=1e-4) for back, value in zip(inverted, inputs, strict=True)):
        raise NotAffineError("it does more than to scale and shift")
