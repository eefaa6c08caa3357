"""Figures that fall when a policy exploits its reward: diversity, contrast and colour entropy of the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

_SIDE = 64  # images are compared at this many pixels per side at most
_LEVELS = 8  # per colour channel, so the histogram has 512 cells and at most 9 bits
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709


def health(images: np.ndarray, uids: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Figures of N images, uint8 (N, H, W, 3); images with equal ``uids`` (N,) form a group.

    * ``diversity_within``, ``diversity_across``: the root mean square difference of the pixels of two images, in
      [0, 1]; the mean over pairs of one group, and over pairs of different groups. Images with more than 64 pixels per
      side are first averaged down to that, so that the figure measures content and not grain. Absent when there is no
      such pair.
    * ``contrast``: mean over images of the standard deviation of BT.709 luminance, in [0, 0.5].
    * ``colour_entropy``: entropy in bits of the histogram of all pixels over 8 x 8 x 8 cells of the RGB cube, in
      [0, 9].
    """
    assert images.ndim == 4, images.shape
    assert images.dtype == np.uint8, images.dtype
    luminance = images @ _LUMINANCE / 255  # (N, H, W)
    figures = {"contrast": float(luminance.std(axis=(1, 2)).mean()), "colour_entropy": colour_entropy(images)}
    return diversity(images, np.asarray(uids)) | figures


def reward_figures(rewards: Sequence[float] | np.ndarray) -> dict[str, float]:
    """``reward`` (mean) and ``reward_stderr`` (its standard error) of the rewards (N,) that are not missing (NaN).

    ``reward`` is absent when there is no reward, ``reward_stderr`` when there are fewer than two.
    """
    known = np.asarray(rewards, dtype=np.float64)
    known = known[~np.isnan(known)]
    figures = {"reward": float(known.mean())} if len(known) else {}
    return figures | ({"reward_stderr": float(known.std(ddof=1) / len(known) ** 0.5)} if len(known) > 1 else {})


def diversity(images: np.ndarray, uids: np.ndarray) -> dict[str, float]:
    """``diversity_within`` and ``diversity_across`` as :func:`health` describes them."""
    small = np.stack([_reduced(image) for image in images])
    flat = small.reshape(len(small), -1).astype(np.float64) / 255  # (N, pixels * 3)
    square = (flat**2).sum(axis=1)
    squares = square[:, None] + square[None, :] - 2 * flat @ flat.T  # |a - b|^2, (N, N)
    distance = np.sqrt(np.maximum(squares, 0) / flat.shape[1])
    pairs = np.triu(np.ones_like(distance, dtype=bool), k=1)
    same = uids[:, None] == uids[None, :]
    kinds = {"diversity_within": pairs & same, "diversity_across": pairs & ~same}
    return {name: float(distance[chosen].mean()) for name, chosen in kinds.items() if chosen.any()}


def colour_entropy(images: np.ndarray) -> float:
    """Entropy in bits of the colours of all pixels, uint8 (..., 3), over a coarse RGB cube."""
    cell = images.reshape(-1, 3).astype(np.int64) * _LEVELS // 256  # (pixels, 3), each 0.._LEVELS-1
    counts = np.bincount(cell @ np.array([_LEVELS**2, _LEVELS, 1]))
    share = counts[counts > 0] / counts.sum()
    return float(np.log2(1 / share) @ share)


def _reduced(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) averaged down to at most 64 pixels a side."""
    height, width = image.shape[:2]
    size = (min(width, _SIDE), min(height, _SIDE))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
