"""Fix the noise of samples that pipelines draw from an autoencoder's distribution of an image.

An autoencoder encodes an image as a distribution. Some pipelines take its mode, others a sample of it, by their
generator or by none. The conditioning must be the same in every call, so the noise of these samples is that of seed 0:
a plain pipeline that is given a generator of this seed draws the same, if the image is the first that it draws for.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils.torch_utils import randn_tensor


def noise() -> torch.Generator:
    """For all samples that one call of the pipeline draws."""
    return torch.Generator().manual_seed(0)


class FixedNoiseGaussian(DiagonalGaussianDistribution):
    """A distribution whose samples have the same noise in every row, whatever generator the pipeline has.

    Args:
        parameters: (B * n, ...) mean and logarithm of the variance, of n images in each row.
        like: the autoencoder's own distribution for one row.
        generator: where the noise comes from.
    """

    def __init__(
        self, parameters: torch.Tensor, like: DiagonalGaussianDistribution, generator: torch.Generator
    ) -> None:
        super().__init__(parameters, deterministic=like.deterministic)
        self._images = len(like.parameters)
        self._generator = generator

    def sample(self, generator: object = None) -> torch.Tensor:
        """(B * n, C, ...)."""
        size, where = (self._images, *self.mean.shape[1:]), self.parameters
        drawn = randn_tensor(size, generator=self._generator, device=where.device, dtype=where.dtype)
        rows = len(self.mean) // self._images
        sample: torch.Tensor = self.mean + self.std * drawn.repeat(rows, *[1] * (drawn.ndim - 1))
        return sample
