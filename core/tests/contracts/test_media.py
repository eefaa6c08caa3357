from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.video_processor import VideoProcessor

from omni_rl.contracts.media import Media, media_of, quantise


def test_every_value_is_quantised_as_diffusers_does():
    """Thresholds of all 256 levels, ties included: what a reward sees is what the pipeline would have saved."""
    ties = (torch.arange(511) / 2) / 255  # k and k + 1/2 in units of 1/255
    edges = torch.cat([torch.nextafter(ties, torch.tensor(-1.0)), ties, torch.nextafter(ties, torch.tensor(2.0))])
    pixels = torch.cat([edges, torch.linspace(0, 1, 1539)]).clamp(0, 1).view(1, 3, 32, 32)
    theirs = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(pixels))[0]
    assert np.array_equal(quantise("image", pixels)[0].numpy(), np.asarray(theirs))


def test_values_out_of_range_saturate():
    """A uint8 cast would wrap 1.01 to black."""
    pixels = torch.tensor([-0.3, -1e-6, 1 + 1e-6, 1.01, 7.0]).expand(1, 3, 1, 5)
    assert quantise("image", pixels)[0, 0, :, 0].tolist() == [0, 0, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_decoder_output_ends_as_the_pipelines_own_picture(dtype):
    """From [-1, 1], out-of-range values included, through diffusers' postprocessing."""
    decoded = (2 * torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))).to(dtype)
    theirs = VaeImageProcessor().postprocess(decoded, output_type="pil")
    ours = quantise("image", VaeImageProcessor().postprocess(decoded, output_type="pt"))
    assert ours.shape == (2, 16, 24, 3)
    assert all(np.array_equal(mine.numpy(), np.asarray(theirs[row])) for row, mine in enumerate(ours))


def test_a_video_is_a_row_of_pictures():
    decoded = torch.randn(2, 3, 5, 8, 6, generator=torch.Generator().manual_seed(0))  # (B, C, F, H, W)
    frames = VideoProcessor().postprocess_video(decoded, output_type="pt")  # (B, F, C, H, W)
    theirs = VideoProcessor().postprocess_video(decoded, output_type="pil")
    ours = quantise("video", frames)
    assert (ours.shape, ours.dtype) == ((2, 5, 8, 6, 3), torch.uint8)
    for row in range(2):
        assert all(np.array_equal(ours[row, f].numpy(), np.asarray(theirs[row][f])) for f in range(5))


def test_sound_is_kept_as_it_is():
    decoded = torch.randn(2, 1, 50, dtype=torch.float64)
    assert torch.equal(quantise("audio", decoded), decoded.float())


def test_media_of_a_trajectory():
    tensors = {"image": torch.zeros(4, 6, 3, dtype=torch.uint8), "video": torch.ones(2, 4, 6, 3, dtype=torch.uint8)}
    found = media_of({**tensors, "depth": torch.zeros(1), "video_rate": torch.tensor(16.0)})
    assert {kind: (media.kind, media.data.shape, media.rate) for kind, media in found.items()} == {
        "image": ("image", (4, 6, 3), None),
        "video": ("video", (2, 4, 6, 3), 16.0),
    }
    assert all(isinstance(media, Media) for media in found.values())
