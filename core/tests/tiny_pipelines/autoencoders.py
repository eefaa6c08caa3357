"""Small autoencoders that several architectures share."""

from __future__ import annotations

from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan


def image_vae(channels: int = 4, attention: bool = True) -> AutoencoderKL:
    """Pictures at half their size, in ``channels`` channels."""
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=channels,
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
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def qwen_image_vae() -> AutoencoderKLQwenImage:
    """Pictures at half their size, as videos of one frame, in four channels."""
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
