"""The hand-wired autoencoder against box averages and torch's own bilinear interpolation."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from torch.nn import functional as F

from omni_rl_tiny.vae import box_bilinear_vae


@pytest.fixture(scope="module", params=[1, 2, 3])
def vae(request: pytest.FixtureRequest) -> AutoencoderKLQwenImage:
    return box_bilinear_vae(request.param)


def halvings(vae: AutoencoderKLQwenImage) -> int:
    return len(vae.temperal_downsample)


def pictures(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_encoding_averages_boxes(vae: AutoencoderKLQwenImage) -> None:
    x = pictures()
    posterior = vae.encode(x.unsqueeze(2)).latent_dist
    expected = F.avg_pool2d(x, 2 ** halvings(vae))
    torch.testing.assert_close(posterior.mode()[:, :, 0], expected, atol=1e-6, rtol=0)
    assert posterior.std.max() < 1e-4


@torch.no_grad()
def test_decoding_interpolates(vae: AutoencoderKLQwenImage) -> None:
    z = F.avg_pool2d(pictures(), 4)  # (2, 3, 8, 16)
    expected = z
    for _ in range(halvings(vae)):
        expected = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    decoded = vae.decode(z.unsqueeze(2)).sample[:, :, 0]
    error = (decoded - expected).abs()
    edge = 2 ** halvings(vae)
    assert error[:, :, edge:-edge, edge:-edge].max() < 1e-6
    assert error.max() < 0.04


@torch.no_grad()
def test_flat_pictures_survive_exactly(vae: AutoencoderKLQwenImage) -> None:
    for level in (-1.0, -0.3, 0.0, 1.0):
        flat = torch.full((1, 3, 1, 32, 64), level)
        returned = vae.decode(vae.encode(flat).latent_dist.mode()).sample
        torch.testing.assert_close(returned, flat, atol=1e-5, rtol=0)


@torch.no_grad()
def test_bf16_stays_close() -> None:
    x = pictures().unsqueeze(2)
    full, half = box_bilinear_vae(2), box_bilinear_vae(2).bfloat16()
    expected = full.decode(full.encode(x).latent_dist.mode()).sample
    returned = half.decode(half.encode(x.bfloat16()).latent_dist.mode()).sample.float()
    assert (returned - expected).abs().max() < 0.02
