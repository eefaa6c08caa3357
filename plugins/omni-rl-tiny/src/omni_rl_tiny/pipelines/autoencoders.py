"""Small autoencoders that several architectures share."""

from __future__ import annotations

from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan

LATENTS_MEAN = [0.2, -0.3, 0.0, 0.1]
LATENTS_STD = [1.5, 0.8, 1.0, 1.2]


def image_vae(widths: tuple[int, ...] = (4, 8), attention: bool = True) -> AutoencoderKL:
    """Images in four channels, halved in size for every width but the first."""
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=attention,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def wan_vae() -> AutoencoderKLWan:
    """Videos at an eighth of their size and a quarter of their frames, in four channels."""
    return AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=LATENTS_MEAN,
        latents_std=LATENTS_STD,
    )


def qwen_image_vae(halvings: int = 1) -> AutoencoderKLQwenImage:
    """Images, as videos of one frame, in four channels at half their size, or halved more often."""
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, *([2] * (halvings - 1))],
        num_res_blocks=1,
        temperal_downsample=[False] * halvings,
        latents_mean=LATENTS_MEAN,
        latents_std=LATENTS_STD,
    )
