"""An AutoencoderKLQwenImage whose weights are set by hand: encoding averages boxes of pixels, decoding interpolates.

Nothing is trained. Three facts make it possible:

* Each colour travels as the pair (x, -x) beside one constant channel of size K. Next to K the colours are tiny, so the
  root-mean-square norm divides by a number that hardly depends on them: it acts as a linear map.
* silu(a) - silu(-a) = a, so reading the pair with weights (+1, -1) undoes the activation.
* K passes through the same resampling as the colours. Zero padding weakens both alike, and the norm takes the ratio.

The residual branches are zero, so a block passes its input on.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKLQwenImage
from torch import nn

_COLOURS = 3
_CONSTANT = 2 * _COLOURS  # the channel that carries K
_K = 1000.0
_WIDTH = 8  # channels at full resolution: three pairs, the constant, one idle
_LATENT_STD = 0.5  # brings images in [-1, 1] to about unit variance, which the sampling schedule assumes
_LOG_VARIANCE = -20.0  # the posterior is a point


@torch.no_grad()
def box_bilinear_vae(halvings: int = 2) -> AutoencoderKLQwenImage:
    """The hand-wired autoencoder, fp32.

    A latent pixel is the mean of ``f x f`` pixels, f = 2**halvings; decoding doubles the size ``halvings`` times by
    bilinear interpolation. Both are exact in the interior up to rounding; decoding differs by up to 0.04 of the range
    [-1, 1] in the outermost pixels. Works on single images (one frame), any size divisible by f.

    Args:
        halvings: how often encoding halves the resolution, >= 1.
    """
    vae = AutoencoderKLQwenImage(
        base_dim=_WIDTH,
        z_dim=_COLOURS,
        dim_mult=[1] + [2] * halvings,
        num_res_blocks=1,
        temperal_downsample=[False] * halvings,
        latents_mean=[0.0] * _COLOURS,
        latents_std=[_LATENT_STD] * _COLOURS,
    )
    for name, parameter in vae.named_parameters():
        if not name.endswith("gamma"):
            parameter.zero_()
    box, blur = torch.zeros(3, 3), torch.tensor([0.25, 0.5, 0.25])
    box[:2, :2] = 0.25
    _wire(vae.encoder, box)
    # Nearest-neighbour doubling followed by this blur is bilinear interpolation.
    _wire(vae.decoder, torch.outer(blur, blur))
    vae.encoder.conv_out.bias[_COLOURS:] = _LOG_VARIANCE
    _identity(vae.quant_conv.weight[:, :, 0, 0, 0])
    _identity(vae.post_quant_conv.weight[:, :, 0, 0, 0])
    return vae.eval()


def _wire(network: nn.Module, kernel: torch.Tensor) -> None:
    """Make ``network`` (encoder or decoder) resample every channel with ``kernel`` (3, 3) and do nothing else."""
    weights = dict(network.named_parameters())
    for name, weight in weights.items():
        if name.endswith("conv_shortcut.weight"):
            _identity(weight[:, :, 0, 0, 0])
        elif name.endswith("resample.1.weight"):
            channels = min(weight.shape[:2])
            weight[range(channels), range(channels)] = kernel
    entry, exit_ = weights["conv_in.weight"], weights["conv_out.weight"]
    # The norm before conv_out brings the constant channel to sqrt(channels); this scale takes the colours back.
    scale = _K / math.sqrt(exit_.shape[1])
    for colour in range(_COLOURS):
        for sign, channel in ((1.0, 2 * colour), (-1.0, 2 * colour + 1)):
            # Convolutions are causal in time: the last temporal tap is the current frame.
            entry[channel, colour, -1, 1, 1] = sign
            exit_[colour, channel, -1, 1, 1] = sign * scale
    weights["conv_in.bias"][_CONSTANT] = _K


def _identity(matrix: torch.Tensor) -> None:
    """Write ones on the diagonal of a view (out, in)."""
    matrix.fill_diagonal_(1.0)
