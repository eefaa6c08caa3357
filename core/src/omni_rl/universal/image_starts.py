"""Latents that contain the conditioning image; its elements are never denoised.

Some pipelines write the image into the latents when they draw the noise (the first frame of a video), and accept
latents only with the image in them. So the latents are compared for several generators: elements that do not depend on
the generator are the image's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline

from omni_rl.universal import affine_maps, capture
from omni_rl.universal.affine_maps import AffineMap

RunRow = Callable[..., Any]
"""Runs the pipeline for one row, with the ``generator`` and the ``latents`` that are given as arguments, if any."""

_METHOD = "prepare_latents"
_NOT_TAKEN = (RuntimeError, ValueError, LookupError)
"""What a pipeline raises when it cannot take latents of a shape."""

_SEEDS = 3
"""Among as many numbers as latents have, two seeds may well agree somewhere by chance; three do not."""


@dataclass(frozen=True)
class ImageStart:
    """Initial latents of one sample that contain its conditioning image.

    Attributes:
        latents: (1, ...) the image's elements and some noise.
        noisy: (P,) int64, positions of the elements that are noise; the rest is the image's.
        map: from the argument of ``__call__`` to ``latents``; None: the argument is used unchanged.
    """

    latents: torch.Tensor
    noisy: torch.Tensor
    map: AffineMap | None = None

    def argument(self, noise: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        """Latents as ``__call__`` takes them: (B, P) noise among the image's elements.

        Args:
            latents: (B, ...) of these samples; the image of ``self.latents`` in every row if None.
        """
        around = self.latents.expand(len(noise), *self.latents.shape[1:]) if latents is None else latents
        flat = around.to(noise).flatten(1).clone()
        flat[:, self.noisy.to(noise.device)] = noise.flatten(1)
        return flat.view(len(noise), *self.latents.shape[1:]) if self.map is None else self.map.inverse(flat)


def find_image_start(pipe: DiffusionPipeline, run_row: RunRow) -> ImageStart | None:
    """The initial latents that the pipeline makes when it is given none; None where all of them are noise.

    Raises:
        NotAffineError: the pipeline cannot be given these latents.
    """
    if not hasattr(pipe, _METHOD):
        return None
    with capture.drawn_shapes() as shapes:
        first = initial_latents(pipe, run_row)
    others = [initial_latents(pipe, run_row, generator=capture.throwaway_generator(s)) for s in range(1, _SEEDS)]
    noisy = torch.stack([first != other for other in others]).any(0)
    if bool(noisy.all()) or not bool(noisy.any()):
        return None
    start = ImageStart(first, noisy.flatten().nonzero().flatten())
    if _used_unchanged(pipe, run_row, others[0]):
        return start
    as_drawn = next((d for d in shapes if math.prod(d) == first.numel()), first.shape)
    return replace(start, map=_map(pipe, run_row, [first.shape[1:], as_drawn[1:]]))


def initial_latents(pipe: DiffusionPipeline, run_row: RunRow, **arguments: Any) -> torch.Tensor:
    """(1, ...) fp32, what the pipeline starts to denoise."""
    with capture.leave_after(pipe, _METHOD) as results:
        run_row(**{"generator": capture.throwaway_generator(), **arguments})
    (result,) = results
    latents: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return latents.float()


def _used_unchanged(pipe: DiffusionPipeline, run_row: RunRow, latents: torch.Tensor) -> bool:
    try:
        return torch.equal(initial_latents(pipe, run_row, latents=latents.clone()), latents)
    except _NOT_TAKEN:
        return False


def _map(pipe: DiffusionPipeline, run_row: RunRow, shapes: Sequence[Sequence[int]]) -> AffineMap:
    """From the argument, in the first of ``shapes`` that the pipeline takes."""

    def through(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [initial_latents(pipe, run_row, latents=value) for value in inputs]

    try:
        return affine_maps.find_maps(through, shapes[:1])[0]
    except (affine_maps.NotAffineError, *_NOT_TAKEN):
        if len(shapes) == 1:
            raise
    return _map(pipe, run_row, shapes[1:])
