"""Maps that move the elements of a tensor and scale and shift each of them: read off by probes, and undone.

Packing, and the statistics by which pipelines normalise latents, are such maps, and every pipeline writes its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from omni_rl.schedulers.randomness import randn

Through = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
"""What tensors (1, ...) become together, each on its own: (1, ...) each."""

_DIGITS = 128
"""A place is told in digits that bf16 carries exactly."""

_FAR = 1024.0
"""By how much the two probes differ that tell the scale: an error of one is shared among so many."""


class NotElementwiseError(Exception):
    """The map does something else; says what."""


@dataclass(frozen=True)
class Elementwise:
    """Element i of what is given arrives at place ``order[i]``, multiplied by ``scale`` there, and ``shift`` added.

    Attributes:
        given, arrived: shapes of one sample before and after.
        order: (P,) int64, a permutation. scale, shift: (P,) fp32, by place of arrival.
    """

    given: tuple[int, ...]
    arrived: tuple[int, ...]
    order: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    @property
    def trivial(self) -> bool:
        """Whether what is given arrives as it is."""
        moved = self.given != self.arrived or not torch.equal(self.order, torch.arange(len(self.order)))
        return not (moved or self.shift.any() or (self.scale - 1).any())

    def back(self, arrived: torch.Tensor) -> torch.Tensor:
        """(B, *given) of what arrived, (B, *arrived)."""
        order, scale, shift = (t.to(arrived.device) for t in (self.order, self.scale, self.shift))
        return ((arrived.flatten(1) - shift) / scale)[:, order].view(len(arrived), *self.given)


def find(through: Through, shapes: Sequence[Sequence[int]]) -> list[Elementwise]:
    """The map of each tensor (*shape) for one sample.

    Raises:
        NotElementwiseError: elements are lost, or more is done to them.
    """
    sizes = [math.prod(shape) for shape in shapes]

    def arrive(values: list[torch.Tensor]) -> list[torch.Tensor]:
        found = [a.cpu() for a in through([v.float().view(1, *s) for v, s in zip(values, shapes, strict=True)])]
        if [a.numel() for a in found] != sizes:
            raise NotElementwiseError("elements are lost on the way")
        return found

    start = arrive([torch.zeros(size) for size in sizes])
    shift = [s.flatten().float() for s in start]
    far = arrive([torch.full((size,), _FAR) for size in sizes])
    scale = [(f.flatten().float() - s) / _FAR for f, s in zip(far, shift, strict=True)]
    if any(bool((s == 0).any()) for s in scale):
        raise NotElementwiseError("elements are lost on the way")
    places = _places(arrive, sizes, scale, shift)
    parts = zip(shapes, start, places, scale, shift, strict=True)
    maps = [Elementwise(tuple(given), tuple(a.shape[1:]), p.argsort(), by, to) for given, a, p, by, to in parts]
    _check(arrive, sizes, maps)
    return maps


def _places(
    arrive: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    sizes: Sequence[int],
    scale: Sequence[torch.Tensor],
    shift: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """(P,) for each tensor: which of its elements arrives at a place."""
    places = [torch.zeros(size, dtype=torch.long) for size in sizes]
    unit = 1
    while unit < max(sizes):
        arrived = arrive([torch.arange(size) // unit % _DIGITS for size in sizes])
        digits = [
            ((a.flatten().float() - to) / by).round().long() for a, by, to in zip(arrived, scale, shift, strict=True)
        ]
        places = [place + unit * digit for place, digit in zip(places, digits, strict=True)]
        unit *= _DIGITS
    if not all(torch.equal(place.sort().values, torch.arange(size)) for place, size in zip(places, sizes, strict=True)):
        raise NotElementwiseError("places do not come back one by one")
    return places


def _check(
    arrive: Callable[[list[torch.Tensor]], list[torch.Tensor]], sizes: Sequence[int], maps: Sequence[Elementwise]
) -> None:
    """On random sixteenths, which bf16 carries exactly too.

    Raises:
        NotElementwiseError: they do not come back.
    """
    others = [(16 * randn(index, (size,))).round() / 16 for index, size in enumerate(sizes)]
    backs = [way.back(a.float()).flatten() for way, a in zip(maps, arrive(others), strict=True)]
    if not all(torch.allclose(back, other, atol=1e-4) for back, other in zip(backs, others, strict=True)):
        raise NotElementwiseError("it does more than to scale and shift")
