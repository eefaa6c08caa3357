"""Measures the legibility of a pipeline's signs by OCR score. Needs the extra ``omni-rl-tiny[pretrain]``."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import QwenImagePipeline
from numpy.typing import NDArray

from omni_rl_ocr.rapid import LineReader
from omni_rl_ocr.text import edit_score
from omni_rl_tiny.signs import HEIGHT, WIDTH, Style, draw_signs, prompt_for

STEPS = 8
_BATCH = 80


def sample_signs(pipeline: QwenImagePipeline, numbers: list[str], seed: int, steps: int = STEPS) -> NDArray[np.uint8]:
    """(N, HEIGHT, WIDTH, 3) RGB, drawn by the pipeline itself without guidance; a function of ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    batches = [numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH)]
    drawn = [
        pipeline(
            prompt=[prompt_for(number) for number in batch],
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=steps,
            true_cfg_scale=1.0,
            generator=generator,
            output_type="np",
        ).images
        for batch in batches
    ]
    pictures: NDArray[np.uint8] = (np.concatenate(drawn) * 255).round().astype(np.uint8)
    return pictures


def to_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, 1, H, W) fp32 in [-1, 1], as the VAE takes them."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).unsqueeze(2).float() / 127.5 - 1


@torch.no_grad()
def through_vae(pipeline: QwenImagePipeline, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images as the pipeline's VAE returns them; same shape."""
    decoded = pipeline.vae.decode(pipeline.vae.encode(to_tensor(pictures)).latent_dist.mode()).sample
    colours = ((decoded[:, :, 0].clamp(-1, 1) + 1) * 127.5).round()
    returned: NDArray[np.uint8] = colours.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    return returned


def score_pictures(pictures: NDArray[np.uint8], numbers: list[str]) -> float:
    """Mean OCR score of images (N, H, W, 3) that should show ``numbers``."""
    readings = LineReader().read(list(pictures))
    return float(np.mean([edit_score(got.text, number) for got, number in zip(readings, numbers, strict=True)]))


def score_pipeline(pipeline: QwenImagePipeline, numbers: list[str], repeats: int, seed: int = 0) -> float:
    """Mean OCR score over ``repeats`` samples of each number."""
    wanted = numbers * repeats
    return score_pictures(sample_signs(pipeline, wanted, seed), wanted)


def score_style(pipeline: QwenImagePipeline, numbers: list[str], style: Style, repeats: int, seed: int = 0) -> float:
    """Mean OCR score of drawn images of ``style`` after the VAE: the ceiling of a perfect fit to them."""
    wanted = numbers * repeats
    pictures = draw_signs(wanted, style, np.random.default_rng(seed))
    return score_pictures(through_vae(pipeline, pictures), wanted)
