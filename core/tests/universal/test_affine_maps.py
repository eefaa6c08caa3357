"""Affine maps that are found by probes."""

from __future__ import annotations

import pytest
import torch

from omni_rl.universal.affine_maps import NotAffineError, find_maps

SCALE, SHIFT = torch.linspace(0.05, 12.0, 4), torch.linspace(-40.0, 7.0, 4)


def packed(x):
    """(1, C, H, W) to (1, H W, C), normalised by channel."""
    return (x.flatten(2).transpose(1, 2) - SHIFT) / SCALE


def test_moved_scaled_and_shifted_elements_come_back():
    """More of them than one digit counts; the other tensor, much smaller, passes through as it is."""
    packing, nothing = find_maps(lambda values: [packed(values[0]), values[1]], [(4, 24, 20), (3,)])
    x = torch.randn(2, 4, 24, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(packing.inverse(packed(x)), x, rtol=0, atol=1e-4)
    assert (packing.is_identity, nothing.is_identity) == (False, True)
    assert torch.equal(nothing.inverse(x[0, 0, :, :3]), x[0, 0, :, :3])


def test_in_bf16_elements_come_back_if_they_are_moved_alone():
    (flip,) = find_maps(lambda values: [values[0].bfloat16().flip(1)], [(5, 60)])
    x = torch.randn(2, 5, 60)
    assert torch.equal(flip.inverse(x.flip(1)), x)


@pytest.mark.parametrize(
    ("through", "why"),
    [
        (lambda x: x[:, 1:], "lost"),
        (lambda x: x * torch.tensor([0.0, 1.0, 1.0]), "lost"),
        (lambda x: x - x.mean(), "lost"),
        (lambda x: x[:, [0, 0, 1]], "one by one"),
        (lambda x: x + (x < 0), "more than to scale and shift"),
        (lambda x: x + 0.01 * x * (1024 - x), "one by one"),
    ],
)
def test_whatever_else_is_done_is_found(through, why):
    with pytest.raises(NotAffineError, match=why):
        find_maps(lambda values: [through(values[0])], [(3,)])
