"""Latents of which a picture is a part: the first frame of a clip stands among what is stepped, and is not stepped.

Some pipelines put it there when they draw the noise, and take latents only with the picture in them. So what they start
from is looked at when they have drawn it: elements that do not depend on the generator are the picture's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline

from omni_rl.universal import affine_maps, capture
from omni_rl.universal.affine_maps import Elementwise

Ask = Callable[..., Any]
"""Calls the pipeline for one row, with this ``generator``, and with ``latents`` if there are any."""

_METHOD = "prepare_latents"
_NOT_TAKEN = (RuntimeError, ValueError, LookupError)
"""What a pipeline raises when it cannot take latents of a shape."""

_SEEDS = 3
"""Two of as many numbers as latents have may well be equal by chance; three are not."""


@dataclass(frozen=True)
class Start:
    """What a pipeline starts one sample from.

    Attributes:
        whole: (1, ...) when it has been drawn.
        drawn: (P,) int64, places of the elements that are drawn; the rest is fixed.
        way: to that from the argument of ``__call__``; None: it is taken as it is.
    """

    whole: torch.Tensor
    drawn: torch.Tensor
    way: Elementwise | None = None

    def argument(self, values: torch.Tensor, fixed: torch.Tensor | None = None) -> torch.Tensor:
        """(B, ...) of what is drawn, (B, P), among what is fixed: (B, ...) of these samples, or this one's."""
        whole = self.whole.expand(len(values), *self.whole.shape[1:]) if fixed is None else fixed
        flat = whole.to(values).flatten(1).clone()
        flat[:, self.drawn.to(values.device)] = values.flatten(1)
        return flat.view(len(values), *self.whole.shape[1:]) if self.way is None else self.way.back(flat)


def find(pipe: DiffusionPipeline, ask: Ask) -> Start | None:
    """What the pipeline starts from when it is given no latents; None where all of it is drawn.

    Raises:
        NotElementwiseError: nor can it be given that as latents.
    """
    if not hasattr(pipe, _METHOD):
        return None
    with capture.drawn_shapes() as shapes:
        first = whole(pipe, ask)
    others = [whole(pipe, ask, generator=capture.discarded(seed)) for seed in range(1, _SEEDS)]
    drawn = torch.stack([first != other for other in others]).any(0)
    if bool(drawn.all()) or not bool(drawn.any()):
        return None
    start = Start(first, drawn.flatten().nonzero().flatten())
    if _taken_as_it_is(pipe, ask, others[0]):
        return start
    as_drawn = next((d for d in shapes if math.prod(d) == first.numel()), first.shape)
    return replace(start, way=_way(pipe, ask, [first.shape[1:], as_drawn[1:]]))


def whole(pipe: DiffusionPipeline, ask: Ask, **arguments: Any) -> torch.Tensor:
    """(1, ...) fp32, what the pipeline starts from."""
    with capture.leave_after(pipe, _METHOD) as results:
        ask(**{"generator": capture.discarded(), **arguments})
    (result,) = results
    latents: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return latents.float()


def _taken_as_it_is(pipe: DiffusionPipeline, ask: Ask, latents: torch.Tensor) -> bool:
    try:
        return torch.equal(whole(pipe, ask, latents=latents.clone()), latents)
    except _NOT_TAKEN:
        return False


def _way(pipe: DiffusionPipeline, ask: Ask, shapes: Sequence[Sequence[int]]) -> Elementwise:
    """From latents that are given, in the first of ``shapes`` that is taken."""

    def through(values: list[torch.Tensor]) -> list[torch.Tensor]:
        return [whole(pipe, ask, latents=value) for value in values]

    try:
        (way,) = affine_maps.find(through, shapes[:1])
    except (affine_maps.NotElementwiseError, *_NOT_TAKEN):
        if len(shapes) == 1:
            raise
        return _way(pipe, ask, shapes[1:])
    return way
