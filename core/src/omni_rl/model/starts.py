"""Latents of which a picture is a part: the first frame of a clip stands among what is stepped, and is not stepped.

Some pipelines put it there when they draw the noise, and take latents only with the picture in them. So what they start
from is looked at when they have drawn it: elements that do not depend on the generator are the picture's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline

from omni_rl.model import capture

_METHOD = "prepare_latents"
_SEEDS = 3
"""Two of as many numbers as latents have may well be equal by chance; three are not."""


@dataclass(frozen=True)
class Start:
    """What a pipeline starts one sample from.

    Attributes:
        whole: (1, ...) as ``__call__`` takes it.
        drawn: (P,) int64, places of the elements that are drawn; the rest is fixed.
    """

    whole: torch.Tensor
    drawn: torch.Tensor

    def filled(self, values: torch.Tensor, fixed: torch.Tensor | None = None) -> torch.Tensor:
        """(B, ...) of what is drawn, (B, P), among what is fixed: (B, ...) of these samples, or this one's."""
        whole = self.whole.expand(len(values), *self.whole.shape[1:]) if fixed is None else fixed
        flat = whole.to(values).flatten(1).clone()
        flat[:, self.drawn.to(values.device)] = values.flatten(1)
        return flat.view(len(values), *self.whole.shape[1:])


def find(pipe: DiffusionPipeline, ask: Callable[[torch.Generator], Any]) -> Start | None:
    """What the pipeline starts from when ``ask`` calls it without latents; None where all of it is drawn.

    Args:
        ask: of one row, with this generator.
    """
    if not hasattr(pipe, _METHOD):
        return None
    first, *others = (_latents(pipe, ask, capture.discarded(seed)) for seed in range(_SEEDS))
    drawn = torch.stack([first != other for other in others]).any(0)
    if bool(drawn.all()) or not bool(drawn.any()):
        return None
    return Start(first.float(), drawn.flatten().nonzero().flatten())


def _latents(
    pipe: DiffusionPipeline, ask: Callable[[torch.Generator], Any], generator: torch.Generator
) -> torch.Tensor:
    with capture.leave_after(pipe, _METHOD) as results:
        ask(generator)
    (result,) = results
    latents: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return latents
