"""Latents that contain the conditioning image, and samples of the distribution of an encoded image."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils.torch_utils import randn_tensor

from omni_rl.errors import ModelError
from omni_rl.schedulers.randomness import randn
from omni_rl.universal import image_starts, posteriors
from omni_rl.universal.affine_maps import NotAffineError
from omni_rl.universal.scheduler_stand_ins import LeaveCall
from omni_rl.universal.streams import Stream

FIRST_FRAME = torch.tensor([7.0, 8.0])


class Draws:
    """As WAN does: frames (1, 3, 2) of noise alone."""

    def prepare_latents(self, latents: Any = None, generator: Any = None) -> Any:
        return randn_tensor((1, 3, 2), generator=generator) if latents is None else latents


class Frames(Draws):
    """As LTX does: the first of three frames is the image, and latents are taken with it in them."""

    def prepare_latents(self, latents: Any = None, generator: Any = None) -> Any:
        given = super().prepare_latents(latents, generator)
        return (torch.cat([FIRST_FRAME.view(1, 1, 2), given[:, 1:]], dim=1) if latents is None else given), "a mask"


class Overwrites(Frames):
    """As Sana-Video does: whatever stands in the first frame of latents, the image takes its place."""

    def prepare_latents(self, latents: Any = None, generator: Any = None) -> Any:
        given = Draws.prepare_latents(self, latents, generator)
        given[:, 0] = FIRST_FRAME
        return given


class Normalises(Frames):
    """As LTX-2 does: latents are taken in the form in which they are drawn, and normalised and packed then."""

    def prepare_latents(self, latents: Any = None, generator: Any = None) -> Any:
        if latents is not None and latents.shape[1:] != (3, 2):
            raise ValueError("packed")
        frames, mask = super().prepare_latents(latents, generator)
        packed = frames.reshape(1, 6)
        return (packed if latents is None else (packed - 3.0) / 2.0), mask


class Ignores(Frames):
    """As LTX does where conditions stand at any frame: latents are not what it starts from."""

    def prepare_latents(self, latents: Any = None, generator: Any = None) -> Any:
        return super().prepare_latents(None, generator)


def found(pipe: Any) -> image_starts.ImageStart | None:
    def run_row(**arguments: Any) -> None:
        with contextlib.suppress(LeaveCall):
            pipe.prepare_latents(**arguments)

    return image_starts.find_image_start(pipe, run_row)


@pytest.mark.parametrize("cls", [Frames, Normalises])
def test_what_is_drawn_is_put_among_what_is_fixed(cls):
    pipe = cls()
    start = found(pipe)
    assert start is not None
    assert start.noisy.tolist() == [2, 3, 4, 5]
    values, fixed = randn(0, (2, 4)), torch.arange(12.0).view(2, *start.latents.shape[1:])
    given = start.argument(values, fixed)
    for row in range(2):
        reached = pipe.prepare_latents(latents=given[row : row + 1])[0].flatten()
        torch.testing.assert_close(reached, torch.cat([fixed[row].flatten()[:2], values[row]]))
    reached = pipe.prepare_latents(latents=start.argument(values[:1]))[0].flatten()
    torch.testing.assert_close(reached, torch.cat([FIRST_FRAME, values[0]]))


def test_latents_whose_image_is_put_in_once_more_are_taken_as_they_are():
    pipe = Overwrites()
    start, values = found(pipe), randn(0, (1, 4))
    assert start is not None
    assert start.map is None
    reached = pipe.prepare_latents(latents=start.argument(values)).flatten()
    assert torch.equal(reached, torch.cat([FIRST_FRAME, values[0]]))


def test_nothing_is_kept_where_all_is_drawn():
    assert found(Draws()) is None
    assert found(object()) is None


def test_a_pipeline_that_cannot_be_given_its_start_is_refused():
    with pytest.raises(NotAffineError):
        found(Ignores())


def test_conditioning_without_the_image_is_refused():
    start = image_starts.ImageStart(torch.zeros(1, 3), torch.tensor([1, 2]))
    stream = Stream("latents", (2,), image_start=start)
    kept = {"start_of_latents": torch.tensor([[7.0, 0.0, 0.0]])}
    assert stream.argument(torch.tensor([[1.0, 2.0]]), kept).tolist() == [[7.0, 1.0, 2.0]]
    with pytest.raises(ModelError, match="latents hold an image, and the conditioning has no start_of_latents"):
        stream.argument(torch.ones(1, 2), {})


def test_samples_of_an_image_are_those_of_seed_0_in_every_row():
    moments = randn(1, (1, 8, 2, 3))
    own = DiagonalGaussianDistribution(moments)
    expected = own.sample(torch.Generator().manual_seed(0))
    rows = posteriors.FixedNoiseGaussian(moments.expand(3, -1, -1, -1), own, posteriors.noise())
    assert torch.equal(rows.sample(torch.Generator().manual_seed(5)), expected.expand(3, -1, -1, -1))
    assert torch.equal(rows.mode()[:1], own.mode())


def test_several_images_of_a_row_and_several_samples_of_a_call_have_noise_of_their_own():
    moments = randn(1, (2, 8, 2, 3))
    own, generator = DiagonalGaussianDistribution(moments), torch.Generator().manual_seed(0)
    expected = [own.sample(generator), own.sample(generator)]
    settled = posteriors.FixedNoiseGaussian(torch.cat([moments, moments]), own, posteriors.noise())
    for both in (settled.sample(), settled.sample()):
        assert torch.equal(both, torch.cat([expected[0], expected[0]]))
        expected.pop(0)


def test_a_distribution_without_spread_keeps_none():
    moments = randn(1, (1, 8, 2, 3))
    own = DiagonalGaussianDistribution(moments, deterministic=True)
    assert torch.equal(posteriors.FixedNoiseGaussian(moments, own, posteriors.noise()).sample(), own.mode())
