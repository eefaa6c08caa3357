"""The head that turns an embedding into a rating; LAION's aesthetic predictor and ImageReward share its shape."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from omni_rl.errors import ModelError

HIDDEN = (1024, 128, 64, 16)
PLACES = (0, 2, 4, 6, 7)
"""Positions of the linear layers in the published ``nn.Sequential``. The layers between them are dropout."""


class RatingHead(nn.Module):
    """Five linear layers without activations: (N, width) -> (N,).

    ``MLP`` of improved-aesthetic-predictor and of ImageReward, under the same parameter names (``layers.0.weight``).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = pairwise((width, *HIDDEN, 1))
        self.layers = nn.ModuleDict({str(p): nn.Linear(*size) for p, size in zip(PLACES, sizes, strict=True)})

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """One rating per row."""
        for layer in self.layers.values():
            embeddings = layer(embeddings)
        return embeddings[:, 0]


def head_width(file: Path) -> int:
    """The width of the embeddings that a head accepts; reads only the header of its file.

    Raises:
        ModelError: it is not a safetensors file of such a head.
    """
    try:
        with safe_open(file, "pt") as header:
            return int(header.get_slice("layers.0.weight").get_shape()[1])
    except (SafetensorError, OSError) as error:
        raise _not_a_head(file, error) from error


def load_head(file: Path, device: torch.device) -> RatingHead:
    """The head in fp32, eval mode, without gradients. Raises ModelError."""
    head = RatingHead(head_width(file))
    try:
        head.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    except (SafetensorError, RuntimeError) as error:
        raise _not_a_head(file, error) from error
    return head.requires_grad_(False).eval().to(device)


def _not_a_head(file: Path, error: Exception) -> ModelError:
    hint = "make it with: omni-rl-convert-reward aesthetic sac+logos+ava1-l14-linearMSE.pth aesthetic.safetensors"
    return ModelError(f"{file} is not an aesthetic predictor in safetensors: {error}", hint)
